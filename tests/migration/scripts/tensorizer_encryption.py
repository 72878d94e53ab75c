"""The README's section on encryption: passwords, random keys, and missing keys."""

import os
import sys
from pathlib import Path

import torch
from tensorizer import (
    CryptographyError,
    DecryptionParams,
    EncryptionParams,
    TensorDeserializer,
    TensorSerializer,
)

path = str(Path(sys.argv[1]) / "encrypted.tensors")
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(700, 800), torch.nn.Linear(8, 9))
expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}

os.environ["SUPER_SECRET_STRONG_PASSWORD"] = "correct horse"
source = os.environ["SUPER_SECRET_STRONG_PASSWORD"]
encryption_params = EncryptionParams.from_string(
    source, opslimit=EncryptionParams.OpsLimit.MIN, memlimit=EncryptionParams.MemLimit.MIN
)
serializer = TensorSerializer(path, encryption=encryption_params)
serializer.write_module(model)
serializer.close()

decryption_params = DecryptionParams.from_string(source)
deserializer = TensorDeserializer(path, device="cpu", encryption=decryption_params)
other = torch.nn.Sequential(torch.nn.Linear(700, 800), torch.nn.Linear(8, 9))
deserializer.load_into_module(other)
verified = deserializer.verify_module(other)
with torch.no_grad():
    other[1].bias += 1
changed = deserializer.verify_module(other)
deserializer.close()


def refused(**kwargs):
    try:
        TensorDeserializer(path, device="cpu", **kwargs)
    except CryptographyError as error:
        return isinstance(error, Exception)
    return None


refusals = [
    refused(),
    refused(encryption=DecryptionParams.from_string("wrong")),
    refused(encryption=DecryptionParams.from_key(os.urandom(32))),
]
random = EncryptionParams.random()
serializer = TensorSerializer(path, encryption=random)
serializer.write_state_dict(model.state_dict())
serializer.close()
refusals.append(refused(encryption=decryption_params))
with TensorDeserializer(
    path, device="cpu", encryption=DecryptionParams.from_key(random.key), verify_hash=True
) as deserializer:
    tensors = dict(deserializer)
plain = TensorSerializer(path)
plain.write_state_dict(model.state_dict())
plain.close()
refusals.append(refused(encryption=decryption_params))

results = {
    "loaded": dict(other.state_dict()),
    "verified": verified,
    "changed": changed,
    "refusals": refusals,
    "tensors": tensors,
    "untouched": all(torch.equal(model.state_dict()[name], expected[name]) for name in expected),
    "salt": len(encryption_params.salt),
    "key": len(random.key),
}
