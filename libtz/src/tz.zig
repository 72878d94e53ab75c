//! libtz: the core of the tz tensor file format, without I/O, threads or global state.
//! C callers use include/tz.h (implemented in c_api.zig), Zig callers import this file.
//!
//! `header.open` opens a file from its first bytes: preamble.zig, directory.zig, tensor_table.zig,
//! structure.zig and metadata.zig check one wire structure each, in the order of section 13 of
//! spec/tz-v1.md, and foreign/ does the same for other formats. All produce an `index.Index`;
//! nothing above it depends on the format. chunk_entries.zig keeps the chunk entries fetched later,
//! plan.zig turns wanted tensors into ordered requests, and process.zig checks and decodes the
//! data that arrives. verifier.zig checks whole files. builder.zig and encode.zig write files.

const std = @import("std");

pub const builder = @import("builder.zig");
/// The structs of tz.h, for the test that compares them with the header.
pub const c_types = @import("c_api/types.zig");
/// The allocator of the exports, for a test in which it fails.
pub const c_support = @import("c_api/support.zig");
pub const checksum = @import("checksum.zig");
pub const codec = @import("codec.zig");
pub const coreweave_record = @import("foreign/coreweave_record.zig");
pub const dispatch = @import("dispatch.zig");
pub const dtype = @import("dtype.zig");
pub const encode = @import("encode.zig");
pub const format = @import("format.zig");
pub const header = @import("header.zig");
pub const index = @import("index.zig");
pub const metadata = @import("metadata.zig");
pub const plan = @import("plan.zig");
/// For tests and fuzzing.
pub const plan_simulation = @import("plan_simulation.zig");
pub const plan_types = @import("plan_types.zig");
pub const process = @import("process.zig");
pub const status = @import("status.zig");
pub const structure = @import("structure.zig");
pub const verifier = @import("verifier.zig");

comptime {
    _ = @import("c_api.zig");
}

test {
    std.testing.refAllDecls(@This());
    _ = @import("box.zig");
    _ = @import("bytes.zig");
    _ = @import("checksum_test.zig");
    _ = @import("codec/tiered_test.zig");
    _ = @import("checksum/crc32.zig");
    _ = @import("decoder_fault_test.zig");
    _ = @import("foreign/coreweave.zig");
    _ = @import("foreign/coreweave_dtype.zig");
    _ = @import("foreign/coreweave_names.zig");
    _ = @import("foreign/json.zig");
    _ = @import("foreign/safetensors.zig");
    _ = @import("header_test.zig");
    _ = @import("limits_test.zig");
    _ = @import("plan_test.zig");
    _ = @import("status.zig");
    _ = @import("tensor_table.zig");
}
