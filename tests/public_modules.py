"""The modules that users import. All others are internal."""

PUBLIC_MODULES = (
    "libtz",
    "libtz.compat.safetensors",
    "libtz.compat.safetensors.numpy",
    "libtz.compat.safetensors.torch",
    "libtz.compat.tensorizer",
    "libtz.compat.tensorizer.serialization",
    "libtz.compat.tensorizer.stream_io",
    "libtz.compat.tensorizer.utils",
    "libtz.errors",
    "libtz.integrations.transformers",
    "libtz.numpy",
    "libtz.options",
    "libtz.schemes",
    "libtz.sets",
    "libtz.signatures",
    "libtz.sinks.base",
    "libtz.sources.base",
    "libtz.torch",
)
