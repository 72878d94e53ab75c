//! The chunk entries that a reader has fetched so far. Opening a file reads none of them. The
//! entries of one tensor, its *run* (section 1 of spec/tz-v1.md), are checked against the digest in
//! its record when they arrive, and then kept.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const Index = @import("index.zig").Index;
const Preamble = @import("preamble.zig").Preamble;
const status = @import("status.zig");

const Allocator = std.mem.Allocator;

pub const Range = extern struct { offset: u64, size: u64 };

pub const ChunkEntries = struct {
    /// The position of the chunk table in the file, and the stride of its records.
    table_offset: u64,
    table_end: u64,
    record_size: usize,
    incompatible_flags: u64,
    /// The tensors with runs, in the order of the file.
    owners: []const u32,
    /// Per tensor: its checked run, or null.
    present: []?[*]const u8,
    /// Never moved, and freed only with the header: plans point into them, and may be
    /// processed while more are put.
    blocks: std.ArrayList([]u8) = .empty,

    /// With nothing fetched yet. Allocates the lists from `arena`.
    pub fn init(
        arena: Allocator,
        index: Index,
        preamble: Preamble,
        record_size: usize,
    ) error{OutOfMemory}!ChunkEntries {
        var count: usize = 0;
        for (index.tensors) |tensor| count += @intFromBool(tensor.hasChunks());
        const owners = try arena.alloc(u32, count);
        count = 0;
        for (index.order) |tensor| {
            if (!index.tensors[tensor].hasChunks()) continue;
            owners[count] = tensor;
            count += 1;
        }
        const present = try arena.alloc(?[*]const u8, index.tensors.len);
        @memset(present, null);
        return .{
            .table_offset = preamble.open_size,
            .table_end = preamble.header_size,
            .record_size = record_size,
            .incompatible_flags = preamble.incompatible_flags,
            .owners = owners,
            .present = present,
        };
    }

    pub fn deinit(self: *ChunkEntries, gpa: Allocator) void {
        for (self.blocks.items) |block| gpa.free(block);
        self.blocks.deinit(gpa);
    }

    pub fn get(self: *const ChunkEntries, index: Index, tensor: u32) ?[]const u8 {
        const run = self.present[tensor] orelse return null;
        return run[0..@intCast(self.range(index, tensor).size)];
    }

    /// The file range of the run of a tensor with chunks. It is within header_size, so nothing
    /// overflows.
    pub fn range(self: *const ChunkEntries, index: Index, tensor: u32) Range {
        const entry = index.tensors[tensor];
        return .{
            .offset = self.table_offset + entry.chunk_begin * self.record_size,
            .size = entry.chunkCount(index.chunk_size) * self.record_size,
        };
    }

    /// Takes every run that is completely in `raw`, the bytes of the file from `offset` on. Like
    /// headers, runs are copied before they are checked.
    pub fn put(
        self: *ChunkEntries,
        gpa: Allocator,
        index: Index,
        offset: u64,
        raw: []const u8,
        diagnostic: *status.Diagnostic,
    ) status.Error!void {
        const end = bytes.add(offset, raw.len) orelse return error.Argument;
        const covered = self.within(index, offset, end);
        const skipped = for (covered, 0..) |tensor, number| {
            if (self.present[tensor] == null) break number;
        } else return;
        // One block for all runs of this call.
        const owners = covered[skipped..];
        const first = self.range(index, owners[0]);
        const last = self.range(index, owners[owners.len - 1]);
        const size: usize = @intCast(last.offset + last.size - first.offset);
        try self.blocks.ensureUnusedCapacity(gpa, 1);
        const copied = try gpa.dupe(u8, raw[@intCast(first.offset - offset)..][0..size]);
        self.blocks.appendAssumeCapacity(copied);
        var is_used = false;
        errdefer if (!is_used) gpa.free(self.blocks.pop().?);
        for (owners) |tensor| {
            if (self.present[tensor] != null) continue;
            const run = self.range(index, tensor);
            const kept = copied[@intCast(run.offset - first.offset)..][0..@intCast(run.size)];
            try self.check(index, tensor, kept, run.offset, diagnostic);
            self.present[tensor] = kept.ptr;
            is_used = true;
        }
    }

    /// The tensors whose runs are completely in a range of the file.
    fn within(self: *const ChunkEntries, index: Index, begin: u64, end: u64) []const u32 {
        const Bound = struct { entries: *const ChunkEntries, index: Index, offset: u64 };
        const from = std.sort.partitionPoint(u32, self.owners, Bound{
            .entries = self,
            .index = index,
            .offset = begin,
        }, struct {
            fn isBefore(bound: Bound, tensor: u32) bool {
                return bound.entries.range(bound.index, tensor).offset < bound.offset;
            }
        }.isBefore);
        const count = std.sort.partitionPoint(u32, self.owners[from..], Bound{
            .entries = self,
            .index = index,
            .offset = end,
        }, struct {
            fn fits(bound: Bound, tensor: u32) bool {
                const run = bound.entries.range(bound.index, tensor);
                return run.offset + run.size <= bound.offset;
            }
        }.fits);
        return self.owners[from..][0..count];
    }

    /// TZ1-38 to TZ1-42 for the bytes of a run, which begins at `offset`.
    pub fn check(
        self: *const ChunkEntries,
        index: Index,
        tensor: u32,
        run: []const u8,
        offset: u64,
        diagnostic: *status.Diagnostic,
    ) status.DataError!void {
        diagnostic.tensor = tensor;
        const entry = index.tensors[tensor];
        if (!std.mem.eql(u8, &checksum.blake3(run), entry.run_digest.?)) {
            return diagnostic.fail(error.Checksum, 38, offset);
        }
        try chunk_table.checkRun(
            entry,
            run,
            self.record_size,
            index.chunk_size,
            self.incompatible_flags,
            offset,
            diagnostic,
        );
        diagnostic.tensor = status.Diagnostic.none;
    }

    /// The ranges of the file that hold the missing runs of `tensors` (null: of all), ascending,
    /// and joined over gaps of up to `gap_max`. Returns their number, and writes as many as fit.
    pub fn missing(
        self: *const ChunkEntries,
        gpa: Allocator,
        index: Index,
        tensors: ?[]const u32,
        gap_max: u64,
        out: []Range,
    ) status.CallError!usize {
        var wanted: std.ArrayList(Range) = .empty;
        defer wanted.deinit(gpa);
        for (tensors orelse self.owners) |tensor| {
            if (tensor >= index.tensors.len) return error.Argument;
            const owner = index.owner(tensor);
            if (!index.tensors[owner].hasChunks() or self.present[owner] != null) continue;
            try wanted.append(gpa, self.range(index, owner));
        }
        if (tensors != null) std.mem.sortUnstable(Range, wanted.items, {}, ascending);
        var count: usize = 0;
        var current: ?Range = null;
        for (wanted.items) |run| {
            if (current) |*joined| {
                const end = joined.offset + joined.size;
                if (run.offset <= end or run.offset - end <= gap_max) {
                    joined.size = @max(end, run.offset + run.size) - joined.offset;
                    continue;
                }
                if (count < out.len) out[count] = joined.*;
                count += 1;
            }
            current = run;
        }
        if (current) |last| {
            if (count < out.len) out[count] = last;
            count += 1;
        }
        return count;
    }

    fn ascending(_: void, a: Range, b: Range) bool {
        return a.offset < b.offset;
    }
};
