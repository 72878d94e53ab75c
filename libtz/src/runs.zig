//! The chunk entries that a reader has fetched so far. Opening a file reads none of them; each tensor's run is
//! checked against the digest in its record when it arrives, and kept.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const format = @import("format.zig");
const Index = @import("index.zig").Index;
const status = @import("status.zig");

const Allocator = std.mem.Allocator;

pub const Range = extern struct { offset: u64, size: u64 };

pub const Runs = struct {
    /// Where the chunk table lies in the file and how its records are spaced.
    table_offset: u64,
    table_end: u64,
    record_size: usize,
    incompatible_flags: u64,
    /// Per tensor: its checked run, or null.
    present: []?[*]const u8,
    /// Never moved nor freed before the header is: plans point into them, and are executed while
    /// further runs are put.
    blocks: std.ArrayList([]u8) = .empty,

    pub fn deinit(self: *Runs, gpa: Allocator) void {
        for (self.blocks.items) |block| gpa.free(block);
        self.blocks.deinit(gpa);
    }

    pub fn get(self: *const Runs, index: Index, tensor: u32) ?[]const u8 {
        const run = self.present[tensor] orelse return null;
        return run[0..@intCast(self.place(index, tensor).size)];
    }

    /// Where the run of a tensor with chunks lies in the file. Within header_size, so nothing overflows.
    pub fn place(self: *const Runs, index: Index, tensor: u32) Range {
        const entry = index.tensors[tensor];
        return .{
            .offset = self.table_offset + entry.chunk_begin * self.record_size,
            .size = entry.chunkCount(index.chunk_size) * self.record_size,
        };
    }

    /// Takes every run that lies wholly in `raw`, the bytes of the file from `offset` on.
    pub fn put(
        self: *Runs,
        gpa: Allocator,
        index: Index,
        offset: u64,
        raw: []const u8,
        diagnostic: *status.Diagnostic,
    ) status.Error!void {
        const end = bytes.add(offset, raw.len) orelse return error.Argument;
        const first = self.firstFrom(index, offset);
        var copied: []u8 = &.{};
        var copied_offset: u64 = 0;
        for (index.order[first..]) |tensor| {
            if (!index.tensors[tensor].hasChunks()) continue;
            const run = self.place(index, tensor);
            if (run.offset + run.size > end) break;
            if (self.present[tensor] != null) continue;
            const source = raw[@intCast(run.offset - offset)..][0..@intCast(run.size)];
            try self.check(index, tensor, source, run.offset, diagnostic);
            if (copied.len == 0) {
                // One block for all runs of this call, up to the last that fits.
                copied_offset = run.offset;
                const stop = @min(end, self.table_end);
                try self.blocks.ensureUnusedCapacity(gpa, 1);
                copied = try gpa.dupe(u8, raw[@intCast(run.offset - offset)..@intCast(stop - offset)]);
                self.blocks.appendAssumeCapacity(copied);
            }
            self.present[tensor] = copied[@intCast(run.offset - copied_offset)..].ptr;
        }
    }

    /// The first place in the writer's order whose run may begin at or after `offset`.
    fn firstFrom(self: *const Runs, index: Index, offset: u64) usize {
        // Tensors without chunks have no place; search linearly only over those next to the answer.
        var begin: usize = 0;
        var end: usize = index.order.len;
        while (begin < end) {
            const middle = begin + (end - begin) / 2;
            var probe = middle;
            while (probe > begin and !index.tensors[index.order[probe]].hasChunks()) probe -= 1;
            const tensor = index.order[probe];
            if (index.tensors[tensor].hasChunks() and self.place(index, tensor).offset >= offset) {
                end = probe;
            } else {
                begin = middle + 1;
            }
        }
        return begin;
    }

    /// TZ1-38 to TZ1-42 for a run's bytes, which lie at `offset`.
    pub fn check(
        self: *const Runs,
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
        const flags = self.incompatible_flags;
        try chunk_table.checkRun(entry, run, self.record_size, index.chunk_size, flags, offset, diagnostic);
        diagnostic.tensor = status.Diagnostic.none;
    }

    /// The ranges of the file with the missing runs of `tensors` (null: of all), ascending, joined over gaps up to
    /// `gap_max`. Returns how many there are, and writes as many as fit.
    pub fn missing(
        self: *const Runs,
        gpa: Allocator,
        index: Index,
        tensors: ?[]const u32,
        gap_max: u64,
        out: []Range,
    ) status.CallError!usize {
        var wanted: std.ArrayList(Range) = .empty;
        defer wanted.deinit(gpa);
        // By index.order the runs ascend in the file already, if ties, which may come before their
        // owners, are left out; only a chosen subset needs sorting.
        for (tensors orelse index.order) |tensor| {
            if (tensor >= index.tensors.len) return error.Argument;
            const owner = index.owner(tensor);
            if (tensors == null and owner != tensor) continue;
            if (!index.tensors[owner].hasChunks() or self.present[owner] != null) continue;
            try wanted.append(gpa, self.place(index, owner));
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
