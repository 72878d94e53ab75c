//! Lists the tensors of a .tz, .safetensors or .tensors file. With a name, also reads that tensor,
//! checked and decoded.
//!
//!     tz_show FILE [NAME]

mod reader;
mod tz;

use reader::{Reader, Result};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = arguments.get(1).ok_or("usage: tz_show FILE [NAME]")?;
    let mut reader = Reader::open(path)?;
    for index in 0..reader.tensor_count()? {
        let tensor = reader.tensor(index)?;
        let shape = format!("{:?}", tensor.shape);
        let sizes = (tensor.decoded_size, tensor.stored_size);
        println!("{} {} {shape} {} bytes, {} stored", tensor.name, tensor.dtype, sizes.0, sizes.1);
    }
    if let Some(name) = arguments.get(2) {
        let index = reader.find(name)?;
        let values = reader.load(index)?;
        let digest = reader::blake3(&values);
        println!("blake3:{}", hex(&digest));
        // All chunks were right, so a difference is a bug of the writer or the decoder.
        if let Some(saved) = reader.tensor(index)?.content_digest {
            assert_eq!(digest, saved, "the values differ from the saved ones");
        }
    }
    Ok(())
}
