//! The types of a plan. plan.zig makes a plan, plan_layout.zig lays it out, process.zig executes
//! it.

const std = @import("std");
const boxes = @import("box.zig");
const format = @import("format.zig");
const Box = boxes.Box;
const Digest = @import("index.zig").Digest;
const Index = @import("index.zig").Index;

const Allocator = std.mem.Allocator;

/// What to read: a tensor, a box of it, or the record header before its data.
pub const ReadItem = struct {
    tensor: u32,
    is_record: bool = false,
    /// A box has `rank` values each; both null: the whole tensor.
    begin: ?[*]const u64 = null,
    end: ?[*]const u64 = null,
};

pub const Options = struct {
    /// Everything stays in staging memory and is described by pieces.
    staged: bool = false,
    /// Small enough that several requests are in flight at once, large enough that their latency
    /// does not matter.
    request_size_max: u64 = 16 << 20,
    /// Unwanted bytes that cost less than another request.
    gap_max: u64 = 64 << 10,
    /// Whole tensors of at most `slab_tensor_max` bytes share allocations of about this size.
    slab_size_max: u64 = 0,
    slab_tensor_max: u64 = 0,
};

/// `tz_request`
pub const Request = extern struct {
    offset: u64,
    size: u64,
    segment_begin: u64,
    piece_begin: u64,
    segment_count: u32,
    piece_count: u32,
    staging_size: u64,
};

/// In Segment.allocation and the allocations of a task.
pub const to_staging: u32 = 0xFFFF_FFFF;
pub const to_nowhere: u32 = 0xFFFF_FFFE;

/// `tz_segment`
pub const Segment = extern struct {
    size: u64,
    position: u64,
    allocation: u32,
    reserved: u32 = 0,
};

/// `tz_placement`
pub const Placement = extern struct {
    position: u64 = 0,
    size: u64,
    allocation: u32 = format.none,
    reserved: u32 = 0,
};

/// `tz_piece`
pub const Piece = extern struct {
    item_offset: u64,
    size: u64,
    position: u64,
    item: u32,
    reserved: u32 = 0,
};

/// What is delivered: an item, or the first of several items of the same whole tensor.
pub const Target = struct {
    item: u32,
    allocation: u32,
    position: u64,
    box: Box,
    /// The newest of its pieces, while requests are laid out.
    last_piece: ?u64 = null,
};

/// A chunk to be received, checked and decoded. There are millions of these: 72 bytes each.
pub const ChunkTask = struct {
    digest: ?*const Digest,
    /// In the file.
    offset: u64,
    /// Where the stored bytes are received, and where the decoded bytes lie after it; of raw chunks
    /// the same.
    received_position: u64 = 0,
    decoded_position: u64 = 0,
    received_allocation: u32 = to_staging,
    decoded_allocation: u32 = to_staging,
    stored_length: u32,
    decoded_length: u32,
    crc: u32,
    /// Index of the owner, and the number of the chunk within it.
    tensor: u32,
    chunk: u32,
    /// The targets that need a part of it: Plan.users.
    user_begin: u32 = 0,
    user_count: u32 = 0,
    codec: u8,

    pub fn end(self: ChunkTask) u64 {
        return self.offset + self.stored_length;
    }
};

pub const Error = error{ Argument, OutOfMemory, EntriesMissing, Feature, Limit };

pub const Plan = struct {
    gpa: Allocator,
    /// Owns the boxes' dimensions.
    arena: std.heap.ArenaAllocator,
    index: Index,
    staged: bool,
    requests: std.ArrayList(Request) = .empty,
    /// Of each request, the number of its first task, and at the end the number of all.
    task_begins: std.ArrayList(u32) = .empty,
    tasks: std.ArrayList(ChunkTask) = .empty,
    /// Indices of targets, chunk by chunk.
    users: std.ArrayList(u32) = .empty,
    targets: std.ArrayList(Target) = .empty,
    segments: std.ArrayList(Segment) = .empty,
    pieces: std.ArrayList(Piece) = .empty,
    placements: []Placement = &.{},
    allocations: std.ArrayList(u64) = .empty,
    staging_size_max: u64 = 0,
    gap_size_max: u64 = 0,
    bytes_read: u64 = 0,
    bytes_wanted: u64 = 0,

    pub fn deinit(self: *Plan) void {
        const gpa = self.gpa;
        self.requests.deinit(gpa);
        self.task_begins.deinit(gpa);
        self.tasks.deinit(gpa);
        self.users.deinit(gpa);
        self.targets.deinit(gpa);
        self.segments.deinit(gpa);
        self.pieces.deinit(gpa);
        gpa.free(self.placements);
        self.allocations.deinit(gpa);
        self.arena.deinit();
        self.* = undefined;
    }

    /// Where a task's first byte lies in the decoded bytes of its tensor. Tasks of foreign tensors
    /// may begin within their chunk, and are stored as they are decoded.
    pub fn decodedBegin(self: *const Plan, task: ChunkTask) u64 {
        const data_offset = self.index.tensors[task.tensor].data_offset;
        // Anything before the data, or without data (0), is a record header, which is read whole.
        const is_data = data_offset != 0 and task.offset >= data_offset;
        if (task.digest == null and is_data) return task.offset - data_offset;
        return task.chunk * self.index.chunk_size;
    }

    /// The targets that need a part of a task's chunk; none when the chunk needs no copying.
    pub fn usersOf(self: *const Plan, task: ChunkTask) []const u32 {
        return self.users.items[task.user_begin..][0..task.user_count];
    }
};

comptime {
    // The C interface exposes these unchanged.
    std.debug.assert(@sizeOf(Request) == 48 and @sizeOf(Segment) == 24);
    std.debug.assert(@sizeOf(Placement) == 24 and @sizeOf(Piece) == 32);
    if (@sizeOf(usize) == 8) std.debug.assert(@sizeOf(ChunkTask) == 72);
}
