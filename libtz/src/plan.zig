//! The range planner: which bytes of a file to read for some tensors, or boxes of them, and where
//! to put them. Pure: a function of the index, the chunk entries, the items and the options.
//!
//!   items -> targets   one per item with bytes of its own: its box, and where it is allocated
//!         -> tasks      one per chunk that a target needs, in the order of the file: where it is
//!                      received, where it is decoded to, and which targets copy from it
//!         -> requests  neighbouring tasks, with their segments, staging memory and pieces; see
//!                      plan_layout.zig
//!
//! A chunk that belongs entirely to one target is received (if raw) or decoded (if compressed)
//! directly into its destination. All others go through staging memory, from which each target
//! copies its part. process.zig executes tasks.

const std = @import("std");
const boxes = @import("box.zig");
const bytes = @import("bytes.zig");
const chunk_table = @import("chunk_table.zig");
const codecs = @import("codec.zig");
const dtypes = @import("dtype.zig");
const layout = @import("plan_layout.zig");
const types = @import("plan_types.zig");
const status = @import("status.zig");
const Box = boxes.Box;
const Index = @import("index.zig").Index;
const Tensor = @import("index.zig").Tensor;
const ChunkTask = types.ChunkTask;
const Error = types.Error;
const Options = types.Options;
const Placement = types.Placement;
const Plan = types.Plan;
const ReadItem = types.ReadItem;
const to_nowhere = types.to_nowhere;

const Allocator = std.mem.Allocator;

/// The chunks of a foreign tensor are not received entries; they are computed from a size that a
/// server claims. With pieces of a megabyte, this is 16 TiB per plan.
const foreign_chunk_count_max = 1 << 24;

/// `header` has `index: Index` and `chunks(tensor: u32)
/// error{EntriesMissing}!chunk_table.Iterator`: a *const Header, which must outlive the plan.
pub fn make(
    gpa: Allocator,
    header: anytype,
    read_items: []const ReadItem,
    options: Options,
    diagnostic: *status.Diagnostic,
) Error!Plan {
    var plan: Plan = .{
        .gpa = gpa,
        .arena = .init(gpa),
        .index = header.index,
        .staged = options.staged,
    };
    errdefer plan.deinit();
    var planner: Planner = .{
        .plan = &plan,
        .index = header.index,
        .read_items = read_items,
        .options = options,
        .slabs = .{
            .size_max = options.slab_size_max,
            .tensor_max = options.slab_tensor_max,
        },
        .diagnostic = diagnostic,
    };
    defer planner.demands.deinit(gpa);
    const sorted = try planner.sortItems();
    defer gpa.free(sorted);

    plan.placements = try gpa.alloc(Placement, read_items.len);
    var begin: usize = 0;
    while (begin < sorted.len) {
        const owner = header.index.order[sorted[begin].order];
        var end = begin + 1;
        while (end < sorted.len and sorted[end].order == sorted[begin].order) end += 1;
        try planner.addRecord(owner, sorted[begin..end]);
        try planner.addTargets(owner, sorted[begin..end]);
        try planner.addTasks(header, owner);
        begin = end;
    }
    try layout.requests(&plan, options);
    return plan;
}

/// An item, by the position of its tensor in the file.
const SortedItem = packed struct(u64) {
    item: u32,
    order: u32,

    fn lessThan(_: void, a: SortedItem, b: SortedItem) bool {
        return @as(u64, @bitCast(a)) < @as(u64, @bitCast(b));
    }
};

/// A target that needs a part of a chunk.
const Demand = packed struct(u64) {
    target: u32,
    chunk: u32,

    fn lessThan(_: void, a: Demand, b: Demand) bool {
        return @as(u64, @bitCast(a)) < @as(u64, @bitCast(b));
    }
};

/// State that exists only during planning.
const Planner = struct {
    plan: *Plan,
    index: Index,
    read_items: []const ReadItem,
    options: Options,
    slabs: layout.Slabs,
    diagnostic: *status.Diagnostic,
    /// Of the current tensor.
    first_target: usize = 0,
    demands: std.ArrayList(Demand) = .empty,

    fn sortItems(self: *Planner) Error![]SortedItem {
        // The two largest numbers of an allocation mean staging and nowhere.
        if (self.read_items.len >= to_nowhere) return error.Argument;
        const sorted = try self.plan.gpa.alloc(SortedItem, self.read_items.len);
        errdefer self.plan.gpa.free(sorted);

        for (self.read_items, sorted, 0..) |item, *entry, number| {
            if (item.tensor >= self.index.tensors.len) return error.Argument;
            const owner = self.index.tensors[self.index.owner(item.tensor)];
            entry.* = .{ .order = owner.order, .item = @intCast(number) };
        }
        std.mem.sortUnstable(SortedItem, sorted, {}, SortedItem.lessThan);
        return sorted;
    }

    /// Places the items of one tensor's record header, which lies right before its data.
    fn addRecord(self: *Planner, owner: u32, read_items: []const SortedItem) Error!void {
        const plan = self.plan;
        var shared: ?Placement = null;
        for (read_items) |entry| {
            const item = self.read_items[entry.item];
            if (!item.is_record) continue;
            if (self.index.records.len == 0) return error.Argument;
            if (item.begin != null or item.end != null) return error.Argument;
            if (shared) |placement| {
                plan.placements[entry.item] = placement;
                continue;
            }
            const record = self.index.records[owner];
            const placement = try self.allocate(record.size, record.offset, true);
            plan.placements[entry.item] = placement;
            shared = placement;
            plan.bytes_wanted = bytes.add(plan.bytes_wanted, record.size) orelse return error.Limit;
            const target: u32 = @intCast(plan.targets.items.len);
            try plan.targets.append(plan.gpa, .{
                .item = entry.item,
                .allocation = placement.allocation,
                .position = placement.position,
                .box = .whole(record.size),
            });
            const chunk: chunk_table.Chunk = .{
                .offset = record.offset,
                .decoded_begin = 0,
                .stored_length = record.size,
                .decoded_length = record.size,
                .codec = codecs.raw,
                .digest = null,
            };
            try self.addTask(owner, 0, chunk, &.{.{ .target = target, .chunk = 0 }});
        }
    }

    /// Places all items of one owner's data.
    fn addTargets(self: *Planner, owner: u32, read_items: []const SortedItem) Error!void {
        const plan = self.plan;
        const tensor = self.index.tensors[owner];
        self.first_target = plan.targets.items.len;
        var shared: ?Placement = null;
        for (read_items) |entry| {
            const item = self.read_items[entry.item];
            if (item.is_record) continue;
            const box = self.boxOf(tensor, item) catch |err| {
                self.diagnostic.tensor = item.tensor;
                return err;
            };
            if (box == null) if (shared) |placement| {
                plan.placements[entry.item] = placement;
                continue;
            };
            const size = if (box) |part| part.size else tensor.decoded_size;
            const placement = try self.allocate(size, tensor.data_offset, box == null);
            plan.placements[entry.item] = placement;
            if (box == null) shared = placement;
            if (placement.size == 0) continue;
            plan.bytes_wanted = bytes.add(plan.bytes_wanted, placement.size) orelse
                return error.Limit;
            try plan.targets.append(plan.gpa, .{
                .item = entry.item,
                .allocation = placement.allocation,
                .position = placement.position,
                .box = box orelse .whole(tensor.decoded_size),
            });
        }
    }

    /// Null: the whole tensor.
    fn boxOf(self: *Planner, tensor: Tensor, item: ReadItem) Error!?Box {
        const rank = tensor.shape.len;
        if (rank == 0) return null;
        if (item.begin == null and item.end == null) return null;
        const dtype = dtypes.byCode(tensor.dtype) orelse {
            self.diagnostic.rule = 60;
            return error.Feature;
        };
        const unit_size = dtype.unitSize();
        const begin = item.begin orelse return error.Argument;
        const end = item.end orelse return error.Argument;
        var buffer: boxes.Buffer = undefined;
        var box: Box = try .init(&buffer, tensor.shape, unit_size, begin[0..rank], end[0..rank]);
        // A shape without values.
        if (tensor.decoded_size == 0) return .whole(0);
        if (self.options.staged and !box.isContiguous()) return error.Argument;
        box.outer = try self.plan.arena.allocator().dupe(boxes.Dimension, box.outer);
        return box;
    }

    /// `offset` is where a whole tensor or record begins in the file.
    fn allocate(self: *Planner, size: u64, offset: u64, is_whole: bool) Error!Placement {
        if (size == 0 or self.options.staged) return .{ .size = size };
        const allocations = &self.plan.allocations;
        if (is_whole and self.slabs.takes(size)) {
            return self.slabs.allocate(self.plan.gpa, allocations, size, offset);
        }
        try allocations.append(self.plan.gpa, size);
        return .{ .size = size, .allocation = @intCast(allocations.items.len - 1) };
    }

    /// The chunks that the newest targets, all of one owner, need.
    fn addTasks(self: *Planner, header: anytype, owner: u32) Error!void {
        const plan = self.plan;
        if (plan.targets.items.len == self.first_target) return;
        // First, since the entries that exist limit what follows.
        var chunks = header.chunks(owner) catch |err| {
            self.diagnostic.tensor = owner;
            return err;
        };
        try self.collectDemands(self.index.tensors[owner]);
        const demands = self.demands.items;
        try plan.tasks.ensureUnusedCapacity(plan.gpa, demands.len);
        var passed: u64 = 0;
        var begin: usize = 0;
        while (begin < demands.len) {
            const number = demands[begin].chunk;
            var end = begin + 1;
            while (end < demands.len and demands[end].chunk == number) end += 1;
            chunks.skip(number - passed);
            var chunk = chunks.next().?;
            if (chunk.digest == null) self.trim(&chunk, demands[begin..end]);
            passed = @as(u64, number) + 1;
            try self.addTask(owner, number, chunk, demands[begin..end]);
            begin = end;
        }
    }

    fn addTask(
        self: *Planner,
        tensor: u32,
        number: u32,
        chunk: chunk_table.Chunk,
        demands: []const Demand,
    ) Error!void {
        var task: ChunkTask = .{
            .digest = chunk.digest,
            .offset = chunk.offset,
            .stored_length = chunk.stored_length,
            .decoded_length = chunk.decoded_length,
            .crc = chunk.crc,
            .tensor = tensor,
            .chunk = number,
            .codec = chunk.codec,
        };
        if (!self.aimAtTarget(&task, chunk, demands)) try self.addUsers(&task, demands);
        try self.plan.tasks.append(self.plan.gpa, task);
    }

    /// Foreign formats have no checksums of whole chunks, so only the wanted bytes are read.
    fn trim(self: *const Planner, chunk: *chunk_table.Chunk, demands: []const Demand) void {
        const end = chunk.decoded_begin + chunk.decoded_length;
        var wanted: boxes.Range = .{ .begin = end, .end = chunk.decoded_begin };
        for (demands) |demand| {
            const box = self.plan.targets.items[demand.target].box;
            const part = box.hull(chunk.decoded_begin, end);
            wanted.begin = @min(wanted.begin, part.begin);
            wanted.end = @max(wanted.end, part.end);
        }
        chunk.offset += wanted.begin - chunk.decoded_begin;
        chunk.decoded_begin = wanted.begin;
        chunk.decoded_length = @intCast(wanted.end - wanted.begin);
        chunk.stored_length = chunk.decoded_length;
    }

    /// By chunk, then by target.
    fn collectDemands(self: *Planner, tensor: Tensor) Error!void {
        const gpa = self.plan.gpa;
        self.demands.clearRetainingCapacity();
        const targets = self.plan.targets.items;
        const count_max: u64 = if (tensor.run_digest == null)
            foreign_chunk_count_max -| self.plan.tasks.items.len
        else
            std.math.maxInt(u32);
        for (targets[self.first_target..], self.first_target..) |target, number| {
            // Before memory of that size is allocated.
            if (target.box.size / self.index.chunk_size > count_max) return error.Limit;
            if (target.box.isContiguous()) {
                const first = target.box.begin / self.index.chunk_size;
                const last = (target.box.contiguousEnd() - 1) / self.index.chunk_size;
                try self.demands.ensureUnusedCapacity(gpa, @intCast(last - first + 1));
                var chunk = first;
                while (chunk <= last) : (chunk += 1) try self.addDemand(number, chunk);
            } else {
                var at: u64 = 0;
                while (target.box.nextByte(at)) |next| {
                    if (self.demands.items.len >= count_max) return error.Limit;
                    const chunk = next / self.index.chunk_size;
                    try self.addDemand(number, chunk);
                    at = (chunk + 1) * self.index.chunk_size;
                }
            }
        }
        if (targets.len - self.first_target > 1) {
            std.mem.sortUnstable(Demand, self.demands.items, {}, Demand.lessThan);
        }
    }

    fn addDemand(self: *Planner, target: usize, chunk: u64) Error!void {
        try self.demands.append(self.plan.gpa, .{
            .target = @intCast(target),
            .chunk = std.math.cast(u32, chunk) orelse return error.Limit,
        });
    }

    /// Whether the chunk goes directly to its destination.
    fn aimAtTarget(
        self: *Planner,
        task: *ChunkTask,
        chunk: chunk_table.Chunk,
        demands: []const Demand,
    ) bool {
        if (self.options.staged or demands.len != 1) return false;
        const target = self.plan.targets.items[demands[0].target];
        if (!target.box.isContiguous()) return false;
        if (chunk.decoded_begin < target.box.begin) return false;
        if (chunk.decoded_begin + chunk.decoded_length > target.box.contiguousEnd()) return false;
        task.decoded_allocation = target.allocation;
        task.decoded_position = target.position + (chunk.decoded_begin - target.box.begin);
        if (chunk.codec == codecs.raw) {
            task.received_allocation = task.decoded_allocation;
            task.received_position = task.decoded_position;
        }
        return true;
    }

    fn addUsers(self: *Planner, task: *ChunkTask, demands: []const Demand) Error!void {
        const users = &self.plan.users;
        if (users.items.len + demands.len > std.math.maxInt(u32)) return error.Limit;
        task.user_begin = @intCast(users.items.len);
        task.user_count = @intCast(demands.len);
        try users.ensureUnusedCapacity(self.plan.gpa, demands.len);
        for (demands) |demand| users.appendAssumeCapacity(demand.target);
    }
};
