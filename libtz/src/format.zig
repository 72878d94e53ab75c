//! Constants of the tz format, version 1 (spec/tz-v1.md). This file contains only numbers.

const std = @import("std");

/// F5 begins no UTF-8 text and is no pickle opcode; CR LF SUB LF show text-mode transfers.
pub const magic = [8]u8{ 0xF5, 'T', 'Z', 'F', '\r', '\n', 0x1A, '\n' };
pub const version_major = 1;
pub const version_minor = 0;

pub const preamble_size = 128;
pub const directory_entry_size = 64;
pub const tensor_record_size = 120;
pub const shape_record_size = 8;
pub const chunk_record_size = 48;
pub const structure_node_size = 24;

pub const section_alignment = 64;
pub const chunk_alignment = 64;
/// Tensors of at least this many decoded bytes begin at a multiple of it (mmap, direct I/O, DMA).
pub const page_size = 4096;

// Limits of TZ1-8, 27, 29, 53 and 58.
pub const chunk_size_log2_min = 16;
pub const chunk_size_log2_max = 26;
pub const tensor_count_max = 1 << 24;
pub const chunk_count_max = 1 << 32;
pub const section_count_max = 64;
pub const open_size_max = 1 << 32;
pub const file_size_max = (1 << 63) - 1;
pub const rank_max = 64;
pub const name_size_max = std.math.maxInt(u16);
pub const depth_max = 128;
pub const node_count_max = 1 << 26;
pub const large_integer_size_max = 1024;
pub const metadata_key_size_max = 1024;
pub const metadata_count_max = 65536;

/// In `Tensor.tie`: not tied.
pub const none = std.math.maxInt(u32);

pub const section = struct {
    pub const tensors = 1;
    pub const shapes = 2;
    pub const names = 3;
    pub const structure = 4;
    pub const metadata = 5;
    pub const chunks = 0xFFFF_FFFF;
    pub const flag_critical = 1;
};

/// The alignment of a tensor's data (TZ1-36). It depends on the decoded size, so that the header
/// does not depend on how well the data compress.
pub fn tensorAlignment(decoded_size: u64) u64 {
    return if (decoded_size >= page_size) page_size else chunk_alignment;
}

comptime {
    // Whole chunks are multiples of the alignment, so chunks of raw data lie without gaps.
    std.debug.assert((1 << chunk_size_log2_min) % page_size == 0);
    std.debug.assert(page_size % chunk_alignment == 0);
}
