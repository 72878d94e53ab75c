//! Executes the tasks of a plan, or processes one chunk alone: checks the chunks that have arrived,
//! decodes them, and copies what is wanted of them to its destination. Allocates nothing, and keeps
//! no state but the caller's count of chunks done.

const std = @import("std");
const checksum = @import("checksum.zig");
const codecs = @import("codec.zig");
const dtypes = @import("dtype.zig");
const Digest = @import("index.zig").Digest;
const types = @import("plan_types.zig");
const status = @import("status.zig");
const ChunkTask = types.ChunkTask;
const Plan = types.Plan;

pub const Verify = enum(u32) { none = 0, crc = 1, digest = 2 };

pub const Batch = struct {
    request: u32,
    /// Bytes of the request that have arrived in its segments.
    received: u64,
    /// The request's staging memory, Request.staging_size bytes; null if that is 0.
    staging: ?[*]u8,
    /// The address of each of the plan's allocations.
    allocations: []const ?*anyopaque,
    verify: Verify,
};

pub const Error = error{ Argument, Checksum, Codec, Feature };

/// Processes the request's chunks from `next` on, as far as they have arrived, and advances `next`.
/// After an error, `next` is the chunk that failed.
pub fn process(
    plan: *const Plan,
    batch: Batch,
    next: *u64,
    diagnostic: *status.Diagnostic,
) Error!void {
    if (batch.request >= plan.requests.items.len) return error.Argument;
    const request = plan.requests.items[batch.request];
    const begin = plan.task_begins.items[batch.request];
    const end = plan.task_begins.items[batch.request + 1];
    if (next.* > end - begin or batch.received > request.size) return error.Argument;
    if (request.staging_size != 0 and batch.staging == null) return error.Argument;
    const memory: Memory = .{
        .plan = plan,
        .staging = if (batch.staging) |start| start[0..@intCast(request.staging_size)] else &.{},
        .allocations = batch.allocations,
    };
    for (plan.tasks.items[@intCast(begin + next.*)..end]) |task| {
        if (task.end() - request.offset > batch.received) return;
        const dtype = plan.index.tensors[task.tensor].dtype;
        execute(memory, task, dtype, batch.verify) catch |err| {
            if (err == error.Argument) return error.Argument;
            diagnostic.offset = task.offset;
            diagnostic.tensor = task.tensor;
            diagnostic.chunk = task.chunk;
            diagnostic.rule = switch (err) {
                error.Argument => unreachable,
                error.Checksum => if (batch.verify == .digest) 85 else 43,
                error.Codec => 44,
                error.Feature => 86,
            };
            return err;
        };
        next.* += 1;
    }
}

/// The memory to which the positions of a plan refer.
const Memory = struct {
    plan: *const Plan,
    staging: []u8,
    allocations: []const ?*anyopaque,

    /// A range that the planner made, so it lies inside.
    fn slice(self: Memory, allocation: u32, position: u64, size: u64) error{Argument}![]u8 {
        const all = if (allocation == types.to_staging) self.staging else blk: {
            if (allocation >= self.allocations.len) return error.Argument;
            const address = self.allocations[allocation] orelse return error.Argument;
            const room: usize = @intCast(self.plan.allocations.items[allocation]);
            break :blk @as([*]u8, @ptrCast(address))[0..room];
        };
        return all[@intCast(position)..][0..@intCast(size)];
    }
};

fn execute(memory: Memory, task: ChunkTask, dtype: u16, verify: Verify) Error!void {
    const stored = try memory.slice(
        task.received_allocation,
        task.received_position,
        task.stored_length,
    );
    try check(task.digest, task.crc, stored, verify);
    var decoded = stored;
    if (task.codec != codecs.raw) {
        decoded = try memory.slice(
            task.decoded_allocation,
            task.decoded_position,
            task.decoded_length,
        );
        const scratch = memory.staging[memory.staging.len - codecs.decode_scratch_size ..];
        try decode(task.codec, dtype, stored, decoded, scratch);
    }
    const chunk_begin = memory.plan.decodedBegin(task);
    for (memory.plan.usersOf(task)) |user| {
        const target = memory.plan.targets.items[user];
        const out = try memory.slice(target.allocation, target.position, target.box.size);
        target.box.copy(chunk_begin, decoded, out);
    }
}

/// A chunk that is processed without a plan.
pub const Single = struct {
    codec: u32,
    dtype: u16,
    crc: u32,
    digest: ?*const Digest,
    stored: []const u8,
    /// Null: it is only checked.
    out: ?[]u8,
    /// Empty: there is none, and the chunk must be raw.
    scratch: []u8,
};

pub fn processSingle(chunk: Single, verify: Verify) Error!void {
    try check(chunk.digest, chunk.crc, chunk.stored, verify);
    const out = chunk.out orelse return;
    if (chunk.codec != codecs.raw and chunk.scratch.len == 0) return error.Argument;
    try decode(chunk.codec, chunk.dtype, chunk.stored, out, chunk.scratch);
}

fn decode(codec: u32, dtype: u16, stored: []const u8, out: []u8, scratch: []u8) Error!void {
    const known = codecs.info(codec) orelse return error.Feature;
    if (codec != codecs.raw and dtypes.byCode(dtype) == null) return error.Feature;
    try known.decode(dtype, stored, out, scratch);
}

/// TZ1-43 or TZ1-85. Foreign formats have nothing to check against.
fn check(
    expected: ?*const Digest,
    crc: u32,
    stored: []const u8,
    verify: Verify,
) error{Checksum}!void {
    const digest = expected orelse return;
    const matches = switch (verify) {
        .none => true,
        .crc => checksum.crc32c(0, stored) == crc,
        .digest => std.mem.eql(u8, &checksum.blake3(stored), digest),
    };
    if (!matches) return error.Checksum;
}
