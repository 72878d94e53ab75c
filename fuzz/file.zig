//! Invariant: for any file, opening, planning and processing any boxes ends with a typed error or
//! with the bytes in the chunks. Nothing outside the caller's buffers is written, and memory is in
//! proportion to the input. Loads accept every file that the whole-file verifier accepts.

const std = @import("std");
const inputs = @import("input.zig");
const memories = @import("memory.zig");
const Buffer = memories.Buffer;
const Limited = memories.Limited;
const observe = @import("observe.zig");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const Diagnostic = tz.status.Diagnostic;
const Header = tz.header.Header;
const Plan = tz.plan_types.Plan;
const ReadItem = tz.plan_types.ReadItem;

/// Bytes that opening and planning may allocate per byte of the file, per item, and in addition. A
/// chunk entry of 48 bytes becomes a task, a request, segments, and for each item a demand, a user
/// and a piece, in growing lists.
const memory_factor = 32;
const memory_per_item = 1 << 10;
const memory_base = 64 << 10;
const item_count_max = 6;

/// Decoded sizes are only claims until chunks decode. Larger ones are not read.
const loaded_size_max = 1 << 22;

pub fn make(arena: Allocator, random: std.Random) ![]u8 {
    return inputs.make(arena, random, .whole);
}

pub const mutate = inputs.mutate;

pub fn run(bytes: []const u8) !void {
    const input = inputs.Input.parse(bytes) orelse return;
    var prng: std.Random.DefaultPrng = .init(input.seed);
    var arena_state: std.heap.ArenaAllocator = .init(memories.backing);
    defer arena_state.deinit();
    const memory_max = memory_base + memory_per_item * item_count_max;
    var memory: Limited = .init(memory_max + memory_factor * input.file.len);
    defer memory.deinit();
    var case: Case = .{
        .arena = arena_state.allocator(),
        .gpa = memory.allocator(),
        .random = prng.random(),
        .file = input.file,
    };
    try case.run();
}

const Case = struct {
    arena: Allocator,
    gpa: Allocator,
    random: std.Random,
    file: []const u8,
    header: *Header = undefined,

    fn run(self: *Case) !void {
        self.header = try self.open() orelse return;
        defer self.header.deinit();
        observe.accepted += 1;
        const whole = try self.verify();
        if (!try self.putEntries() and whole) return error.VerifiedRunRefused;
        for (0..2) |_| if (!try self.load() and whole) return error.VerifiedChunkRefused;
    }

    /// Reads the front in as many steps as the header needs.
    fn open(self: *Case) !?*Header {
        var size = self.random.uintAtMost(usize, @min(self.file.len, 300));
        for (0..3) |_| {
            const front: Buffer = .copyOf(self.file[0..size]);
            defer front.deinit();
            var diagnostic: Diagnostic = .{};
            const file_size = self.file.len;
            const outcome = tz.header.open(
                self.gpa,
                front.bytes,
                file_size,
                .{ .format = .tz },
                &diagnostic,
            ) catch |err| {
                if (err == error.OutOfMemory) return err;
                observe.refused(diagnostic);
                return null;
            };
            switch (outcome) {
                .header => |header| return header,
                .need_more => |needed| size = @intCast(needed),
            }
        }
        return error.AskedThreeTimes;
    }

    /// Runs the verifier. Returns whether it accepts the file.
    fn verify(self: *Case) !bool {
        var verifier: tz.verifier.Verifier = try .init(memories.backing, self.header);
        defer verifier.deinit();
        var diagnostic: Diagnostic = .{};
        while (true) {
            const range = verifier.next(&diagnostic) catch return self.verifierRefused(diagnostic);
            if (range.size == 0) break;
            const bytes = self.file[@intCast(range.offset)..][0..@intCast(range.size)];
            const part: Buffer = .copyOf(bytes);
            defer part.deinit();
            verifier.put(part.bytes, &diagnostic) catch return self.verifierRefused(diagnostic);
        }
        verifier.finish(&diagnostic) catch return self.verifierRefused(diagnostic);
        return true;
    }

    fn verifierRefused(_: *Case, diagnostic: Diagnostic) bool {
        observe.refused(diagnostic);
        return false;
    }

    /// Fetches the chunk entries of all or some tensors. Returns whether all were accepted.
    fn putEntries(self: *Case) !bool {
        const header = self.header;
        const chunk_entries = &header.chunk_entries.?;
        const count = header.index.tensors.len;
        var some: [3]u32 = undefined;
        for (&some) |*tensor| {
            tensor.* = if (count == 0) 0 else self.random.uintLessThan(u32, @intCast(count));
        }
        const chosen: ?[]const u32 = if (count == 0 or self.random.boolean()) null else &some;
        const gap_max = self.random.uintAtMost(u64, 200);
        const needed = try chunk_entries.missing(self.gpa, header.index, chosen, gap_max, &.{});
        const ranges = try self.arena.alloc(@TypeOf(chunk_entries.range(header.index, 0)), needed);
        const again = try chunk_entries.missing(self.gpa, header.index, chosen, gap_max, ranges);
        if (again != needed) return error.Inconstant;
        var accepted = true;
        var end: u64 = header.open_size;
        for (ranges) |range| {
            if (range.offset < end or range.size == 0) return error.WrongRange;
            end = range.offset + range.size;
            if (end > header.header_size) return error.WrongRange;
            const part: Buffer = .copyOf(self.file[@intCast(range.offset)..@intCast(end)]);
            defer part.deinit();
            var diagnostic: Diagnostic = .{};
            const offset = range.offset;
            chunk_entries.put(self.gpa, header.index, offset, part.bytes, &diagnostic) catch |err| {
                if (err == error.OutOfMemory) return err;
                observe.refused(diagnostic);
                accepted = false;
            };
        }
        const rest = try chunk_entries.missing(self.gpa, header.index, chosen, 0, &.{});
        if (accepted and rest != 0) return error.StillMissing;
        return accepted;
    }

    /// Plans and reads some boxes. Returns whether all data that was read was accepted.
    fn load(self: *Case) !bool {
        const read_items = try self.makeItems();
        const options: tz.plan_types.Options = .{
            .staged = self.random.boolean(),
            .request_size_max = self.random.uintAtMost(u64, 200_000),
            .gap_max = self.random.uintAtMost(u64, 10_000),
            .slab_size_max = self.random.uintAtMost(u64, 10_000),
            .slab_tensor_max = self.random.uintAtMost(u64, 5_000),
        };
        var diagnostic: Diagnostic = .{};
        const made = tz.plan.make(self.gpa, self.header, read_items, options, &diagnostic);
        var plan = made catch |err| switch (err) {
            error.Argument => return if (options.staged) true else error.BoxRefused, // scattered
            error.EntriesMissing => return true, // not put, or refused
            error.Feature => return true, // TZ1-60, of a box
            error.Limit, error.OutOfMemory => |other| return other,
        };
        defer plan.deinit();
        try self.checkRequests(&plan, options);
        const loading = try Loading.init(self, &plan, read_items) orelse return true;
        defer loading.deinit();
        loading.readAll() catch |err| switch (err) {
            error.Checksum, error.Codec, error.Feature => return false,
            error.Argument => return error.ArgumentRefused,
        };
        for (read_items, 0..) |item, number| try loading.compare(item, number);
        return true;
    }

    fn makeItems(self: *Case) ![]ReadItem {
        const tensors = self.header.index.tensors;
        const count = if (tensors.len == 0) 0 else self.random.uintAtMost(usize, item_count_max);
        const read_items = try self.arena.alloc(ReadItem, count);
        for (read_items) |*item| {
            item.* = .{ .tensor = self.random.uintLessThan(u32, @intCast(tensors.len)) };
            if (self.random.boolean()) continue;
            const shape = tensors[item.tensor].shape;
            const begin = try self.arena.alloc(u64, shape.len);
            const end = try self.arena.alloc(u64, shape.len);
            for (shape, begin, end) |size, *low, *high| {
                low.* = if (self.random.boolean()) 0 else self.random.uintAtMost(u64, size);
                high.* = self.random.intRangeAtMost(u64, low.*, size);
                if (self.random.boolean()) high.* = size;
            }
            item.begin = begin.ptr;
            item.end = end.ptr;
        }
        return read_items;
    }

    /// Requests ascend inside the data region; segments cover them.
    fn checkRequests(self: *Case, plan: *const Plan, options: tz.plan_types.Options) !void {
        var end = self.header.header_size;
        for (plan.requests.items) |request| {
            if (request.offset < end or request.size == 0) return error.WrongRequest;
            end = request.offset + request.size;
            if (end > self.header.file_size) return error.WrongRequest;
            var covered: u64 = 0;
            for (segmentsOf(plan, request)) |segment| {
                covered += segment.size;
                const space = switch (segment.allocation) {
                    tz.plan_types.to_nowhere => continue,
                    tz.plan_types.to_staging => request.staging_size,
                    else => plan.allocations.items[segment.allocation],
                };
                if (segment.position > space) return error.WrongSegment;
                if (segment.size > space - segment.position) return error.WrongSegment;
            }
            if (covered != request.size) return error.NotCovered;
        }
        if (options.staged and plan.allocations.items.len != 0) return error.StagedAllocation;
    }
};

fn segmentsOf(plan: *const Plan, request: tz.plan_types.Request) []const tz.plan_types.Segment {
    return plan.segments.items[@intCast(request.segment_begin)..][0..request.segment_count];
}

/// Memory for a plan, and the expected results.
const Loading = struct {
    case: *Case,
    plan: *const Plan,
    read_items: []const ReadItem,
    allocations: []Buffer,
    addresses: []?*anyopaque,
    /// Of staged plans, gathered from their pieces.
    gathered: [][]u8,

    fn init(case: *Case, plan: *const Plan, read_items: []const ReadItem) !?Loading {
        var size = plan.staging_size_max;
        for (plan.allocations.items) |allocation| size +|= allocation;
        for (plan.placements) |placement| size +|= placement.size;
        if (size > loaded_size_max) return null;
        const allocations = try case.arena.alloc(Buffer, plan.allocations.items.len);
        const addresses = try case.arena.alloc(?*anyopaque, allocations.len);
        const gathered = try case.arena.alloc([]u8, read_items.len);
        for (plan.placements, gathered) |placement, *item| {
            item.* = try case.arena.alloc(u8, @intCast(placement.size));
        }
        for (plan.allocations.items, allocations, addresses) |bytes, *buffer, *address| {
            buffer.* = .init(@intCast(bytes));
            address.* = buffer.bytes.ptr;
        }
        return .{
            .case = case,
            .plan = plan,
            .read_items = read_items,
            .allocations = allocations,
            .addresses = addresses,
            .gathered = gathered,
        };
    }

    fn deinit(self: Loading) void {
        for (self.allocations) |buffer| buffer.deinit();
    }

    fn readAll(self: Loading) tz.process.Error!void {
        const verify: tz.process.Verify = if (self.case.random.boolean()) .digest else .crc;
        for (0..self.plan.requests.items.len) |number| try self.read(@intCast(number), verify);
    }

    fn read(self: Loading, number: u32, verify: tz.process.Verify) tz.process.Error!void {
        const request = self.plan.requests.items[number];
        // The request gets exactly the staging memory that it needs.
        const staging: Buffer = .init(@intCast(request.staging_size));
        defer staging.deinit();
        self.receive(request, staging.bytes);
        var received: u64 = 0;
        var next: u64 = 0;
        var diagnostic: Diagnostic = .{};
        while (received < request.size) {
            received += self.case.random.uintAtMost(u64, request.size - received + 1);
            received = @min(received, request.size);
            tz.process.process(self.plan, .{
                .request = number,
                .received = received,
                .staging = if (request.staging_size == 0) null else staging.bytes.ptr,
                .allocations = self.addresses,
                .verify = verify,
            }, &next, &diagnostic) catch |err| {
                observe.refused(diagnostic);
                return err;
            };
        }
        const pieces = self.plan.pieces.items[@intCast(request.piece_begin)..];
        for (pieces[0..request.piece_count]) |piece| {
            const source = staging.bytes[@intCast(piece.position)..][0..@intCast(piece.size)];
            const target = self.gathered[piece.item][@intCast(piece.item_offset)..];
            @memcpy(target[0..source.len], source);
        }
    }

    fn receive(self: Loading, request: tz.plan_types.Request, staging: []u8) void {
        var source = self.case.file[@intCast(request.offset)..][0..@intCast(request.size)];
        for (segmentsOf(self.plan, request)) |segment| {
            const part = source[0..@intCast(segment.size)];
            source = source[part.len..];
            const target = switch (segment.allocation) {
                tz.plan_types.to_nowhere => continue,
                tz.plan_types.to_staging => staging,
                else => |number| self.allocations[number].bytes,
            };
            @memcpy(target[@intCast(segment.position)..][0..part.len], part);
        }
    }

    /// Checks that the data of each item is its box of the decoded tensor, byte by byte.
    fn compare(self: Loading, item: ReadItem, number: usize) !void {
        const placement = self.plan.placements[number];
        if (placement.size == 0) return;
        if (self.plan.staged and !self.isFirst(item, number)) return;
        const memory = if (self.plan.staged)
            self.gathered[number]
        else
            self.allocations[placement.allocation].bytes[@intCast(placement.position)..];
        const delivered = memory[0..@intCast(placement.size)];
        const decoded = try self.decode(self.case.header.index.owner(item.tensor));
        const tensor = self.case.header.index.tensors[item.tensor];
        const unit: usize = @intCast(tz.dtype.byCode(tensor.dtype).?.unitSize());
        var position: usize = 0;
        for (0..decoded.len / unit) |element| {
            if (!isInside(tensor.shape, item, element)) continue;
            const expected = decoded[element * unit ..][0..unit];
            if (!std.mem.eql(u8, expected, delivered[position..][0..unit])) return error.WrongBytes;
            position += unit;
        }
        if (position != delivered.len) return error.WrongSize;
    }

    /// In staged plans, only the first of several items of the same whole tensor has pieces.
    fn isFirst(self: Loading, item: ReadItem, number: usize) bool {
        if (!isWhole(self.case, item)) return true;
        const index = self.case.header.index;
        for (self.read_items[0..number]) |other| {
            const same = index.owner(other.tensor) == index.owner(item.tensor);
            if (same and isWhole(self.case, other)) return false;
        }
        return true;
    }

    fn isWhole(case: *Case, item: ReadItem) bool {
        return item.begin == null or case.header.index.tensors[item.tensor].shape.len == 0;
    }

    /// Decodes the chunks directly, without a plan. A chunk that no item needs may not decode; its
    /// bytes are then not compared with any result.
    fn decode(self: Loading, owner: u32) ![]u8 {
        const header = self.case.header;
        const tensor = header.index.tensors[owner];
        const decoded = try self.case.arena.alloc(u8, @intCast(tensor.decoded_size));
        const scratch = try self.case.arena.alloc(u8, tz.codec.decode_scratch_size);
        var chunks = try header.chunks(owner);
        while (chunks.next()) |chunk| {
            const stored = self.case.file[@intCast(chunk.offset)..][0..chunk.stored_length];
            const target = decoded[@intCast(chunk.decoded_begin)..][0..chunk.decoded_length];
            const codec = tz.codec.info(chunk.codec).?;
            codec.decode(tensor.dtype, stored, target, scratch) catch @memset(target, 0xEE);
        }
        return decoded;
    }
};

fn isInside(shape: []const u64, item: ReadItem, element: usize) bool {
    const begin = item.begin orelse return true;
    const end = item.end.?;
    var rest: u64 = element;
    var dimension = shape.len;
    while (dimension > 0) {
        dimension -= 1;
        const at = rest % shape[dimension];
        if (at < begin[dimension] or at >= end[dimension]) return false;
        rest /= shape[dimension];
    }
    return true;
}
