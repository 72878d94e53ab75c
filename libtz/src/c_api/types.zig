//! The structs of tz.h. libtz/test/c_abi_test.zig compares every size and offset with the header.
//!
//! Structs that begin with struct_size may grow at their end. A struct that has grown declares its
//! first size as `size_min`, which is the struct_size of older programs.

const std = @import("std");
const checksum = @import("../checksum.zig");
const Digest = @import("../index.zig").Digest;
const plan = @import("../plan_types.zig");
const Range = @import("../chunk_entries.zig").Range;
const status = @import("../status.zig");

pub const Diagnostic = extern struct {
    struct_size: u32 = 0,
    rule: u32,
    offset: u64,
    tensor: u64,
    chunk: u64,
    reason: ?[*:0]const u8,
    name_size: u32,
    reserved: u32 = 0,
    name: [status.Diagnostic.name_size_max]u8,
};

pub const DtypeInfo = extern struct {
    struct_size: u32 = 0,
    unit_bits: u32,
    elements: u32,
    reserved: u32 = 0,
    name: [*:0]const u8,
    safetensors: ?[*:0]const u8,
};

pub const OpenOptions = extern struct {
    struct_size: u32,
    format: u32,
    pin: ?*const Digest,
    open_size_max: u64,
};

pub const HeaderInfo = extern struct {
    struct_size: u32 = 0,
    format: u32,
    tensor_count: u32,
    metadata_count: u32,
    node_count: u64,
    chunk_count: u64,
    chunk_size: u64,
    file_size: u64,
    header_size: u64,
    open_size: u64,
    decoded_size: u64,
    incompatible_flags: u64,
    compatible_flags: u64,
    file_digest: Digest,
    is_encrypted: u32,
    reserved: u32 = 0,
};

/// TZ_TENSOR_*
pub const TensorFlags = packed struct(u32) {
    meta: bool = false,
    parameter: bool = false,
    buffer: bool = false,
    dotted: bool = false,
    unused: u28 = 0,
};

pub const Tensor = extern struct {
    struct_size: u32 = 0,
    dtype: u32,
    name: [*]const u8,
    name_size: u64,
    shape: [*]const u64,
    rank: u32,
    order: u32,
    tie: u32,
    flags: TensorFlags,
    decoded_size: u64,
    stored_size: u64,
    data_offset: u64,
    chunk_count: u64,
    content_digest: ?*const Digest,
};

/// TZ_RECORD_*
pub const RecordFlags = packed struct(u32) {
    crc32: bool = false,
    unused: u31 = 0,
};

pub const Record = extern struct {
    struct_size: u32 = 0,
    module: u32,
    flags: RecordFlags,
    crc32: u32,
    sha256: ?*const Digest,
    hashed_size: u64,
    cipher_chunk_size: u64,
    cipher_chunk_count: u64,
    nonce: ?*const [24]u8,
    tags: ?[*]const u8,
    opslimit: u64,
    memlimit: u64,
    salt: ?*const [16]u8,
};

pub const Pair = extern struct {
    key: ?[*]const u8,
    key_size: u64,
    value: ?[*]const u8,
    value_size: u64,
};

pub const Node = extern struct {
    kind: u32,
    key_kind: u32,
    key: u64,
    value: u64,
    key_bytes: ?[*]const u8,
    value_bytes: ?[*]const u8,
};

pub const Chunk = extern struct {
    struct_size: u32 = 0,
    codec: u32,
    offset: u64,
    stored_length: u32,
    decoded_length: u32,
    crc: u32,
    reserved: u32 = 0,
    digest: ?*const Digest,
};

/// TZ_ITEM_*
pub const ItemFlags = packed struct(u32) {
    record: bool = false,
    unused: u31 = 0,
};

pub const ReadItem = extern struct {
    struct_size: u32,
    tensor: u32,
    flags: ItemFlags,
    reserved: u32,
    begin: ?[*]const u64,
    end: ?[*]const u64,
};

/// TZ_PLAN_*
pub const PlanFlags = packed struct(u32) {
    staged: bool = false,
    unused: u31 = 0,
};

pub const PlanOptions = extern struct {
    struct_size: u32,
    flags: PlanFlags,
    request_size_max: u64,
    gap_max: u64,
    slab_size_max: u64,
    slab_tensor_max: u64,
};

pub const PlanInfo = extern struct {
    struct_size: u32 = 0,
    request_count: u32,
    segment_count: u64,
    piece_count: u64,
    allocation_count: u32,
    reserved: u32 = 0,
    staging_size_max: u64,
    gap_size_max: u64,
    bytes_read: u64,
    bytes_wanted: u64,
};

pub const TensorSpec = extern struct {
    struct_size: u32,
    dtype: u32,
    name: ?[*]const u8,
    name_size: u64,
    shape: ?[*]const u64,
    rank: u32,
    tie: u32,
    decoded_size: u64,
};

pub const BuilderOptions = extern struct {
    struct_size: u32,
    chunk_size_log2: u32,
    metadata: ?[*]const Pair,
    metadata_count: u64,
    nodes: ?[*]const Node,
    node_count: u64,
};

pub const BuilderInfo = extern struct {
    struct_size: u32 = 0,
    reserved: u32 = 0,
    header_size: u64,
    chunk_size: u64,
    chunk_count: u64,
    decoded_size: u64,
    file_size_max: u64,
};

pub const EncodeOptions = extern struct {
    struct_size: u32,
    dtype: u32,
    compress: u32,
    reserved: u32,
    chunk_size: u64,
};

pub const ChunkEntry = extern struct {
    struct_size: u32 = 0,
    stored_length: u32,
    codec: u32,
    crc: u32,
    digest: Digest,
};

/// Every struct of tz.h by its C name.
pub const structs = .{
    .{ "tz_diagnostic", Diagnostic },
    .{ "tz_blake3_state", checksum.Blake3 },
    .{ "tz_dtype_info", DtypeInfo },
    .{ "tz_open_options", OpenOptions },
    .{ "tz_header_info", HeaderInfo },
    .{ "tz_tensor", Tensor },
    .{ "tz_record", Record },
    .{ "tz_pair", Pair },
    .{ "tz_node", Node },
    .{ "tz_range", Range },
    .{ "tz_chunk", Chunk },
    .{ "tz_read_item", ReadItem },
    .{ "tz_plan_options", PlanOptions },
    .{ "tz_plan_info", PlanInfo },
    .{ "tz_request", plan.Request },
    .{ "tz_segment", plan.Segment },
    .{ "tz_placement", plan.Placement },
    .{ "tz_piece", plan.Piece },
    .{ "tz_tensor_spec", TensorSpec },
    .{ "tz_builder_options", BuilderOptions },
    .{ "tz_builder_info", BuilderInfo },
    .{ "tz_encode_options", EncodeOptions },
    .{ "tz_chunk_entry", ChunkEntry },
};

/// 0 for an unknown name.
pub fn structSize(name: []const u8) usize {
    inline for (structs) |row| {
        if (std.mem.eql(u8, row[0], name)) return @sizeOf(row[1]);
    }
    return 0;
}
