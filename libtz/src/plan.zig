//! The range planner: which bytes of a file to read for some tensors, or boxes of them, and where
//! to put them. Pure: a function of the index, the chunk entries, the wants and the options.
//!
//!   wants -> targets   one per want with bytes of its own: its box and its place in an allocation
//!         -> jobs      one per chunk that a target needs, in the order of the file: where it is
//!                      received, where it is decoded to, and which targets copy from it
//!         -> requests  neighbouring jobs, with their segments, staging memory and pieces; see
//!                      plan_layout.zig
//!
//! A chunk that belongs to one target wholly is received (raw) or decoded (compressed) in its final
//! place. All others go through staging memory, from where each target copies its part. process.zig
//! executes jobs.

const std = @import("std");
const boxes = @import("box.zig");
const bytes = @import("bytes.zig");
const chunk_table = @import("chunk_table.zig");
const dtypes = @import("dtype.zig");
const format = @import("format.zig");
const layout = @import("plan_layout.zig");
const status = @import("status.zig");
const Box = boxes.Box;
const Digest = @import("index.zig").Digest;
const Index = @import("index.zig").Index;
const Tensor = @import("index.zig").Tensor;

const Allocator = std.mem.Allocator;

/// For tests and fuzzing.
pub const simulation = @import("plan_simulation.zig");

/// `tz_want`. A box has `rank` values each; both null: the whole tensor.
pub const Want = extern struct {
    tensor: u32,
    flags: u32 = 0,
    begin: ?[*]const u64 = null,
    end: ?[*]const u64 = null,
};

/// In Want.flags: not the tensor but the record header before its data.
pub const want_record: u32 = 1;

pub const Options = struct {
    /// Everything stays in staging memory and is described by pieces.
    staged: bool = false,
    /// Few enough bytes that several requests are under way at once, many enough that their latency
    /// does not count.
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

/// In Segment.allocation and the allocations of a job.
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
    want_offset: u64,
    size: u64,
    position: u64,
    want: u32,
    reserved: u32 = 0,
};

/// Something that is delivered: a want, or the first of several wants of the same whole tensor.
pub const Target = struct {
    want: u32,
    allocation: u32,
    position: u64,
    box: Box,
    /// The newest of its pieces, while requests are laid out.
    last_piece: ?u64 = null,
};

/// A chunk to be received, checked and decoded. There are millions of these: 72 bytes each.
pub const Job = struct {
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
    /// Which targets need a part of it: Plan.users.
    user_begin: u32 = 0,
    user_count: u32 = 0,
    codec: u8,

    pub fn end(self: Job) u64 {
        return self.offset + self.stored_length;
    }
};

pub const Error = error{ Argument, OutOfMemory, RunMissing, Feature, Limit };

/// Chunks of a foreign tensor are no entries that were received, only arithmetic over a size that a
/// server claims. In pieces of a megabyte this is 16 TiB per plan.
const foreign_chunk_count_max = 1 << 24;

pub const Plan = struct {
    gpa: Allocator,
    /// Owns the boxes' dimensions.
    arena: std.heap.ArenaAllocator,
    index: Index,
    staged: bool,
    requests: std.ArrayList(Request) = .empty,
    /// Of each request, the number of its first job, and at the end the number of all.
    job_begins: std.ArrayList(u32) = .empty,
    jobs: std.ArrayList(Job) = .empty,
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

    /// `header` has `index: Index` and `chunks(tensor: u32)
    /// error{RunMissing}!chunk_table.Iterator`: a *const Header, which must outlive the plan.
    pub fn init(
        gpa: Allocator,
        header: anytype,
        wants: []const Want,
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
            .wants = wants,
            .options = options,
            .slabs = .{
                .size_max = options.slab_size_max,
                .tensor_max = options.slab_tensor_max,
            },
            .diagnostic = diagnostic,
        };
        defer planner.demands.deinit(gpa);
        const sorted = try planner.sortWants();
        defer gpa.free(sorted);

        plan.placements = try gpa.alloc(Placement, wants.len);
        var begin: usize = 0;
        while (begin < sorted.len) {
            const owner = header.index.order[sorted[begin].order];
            var end = begin + 1;
            while (end < sorted.len and sorted[end].order == sorted[begin].order) end += 1;
            try planner.addRecord(owner, sorted[begin..end]);
            try planner.addTargets(owner, sorted[begin..end]);
            try planner.addJobs(header, owner);
            begin = end;
        }
        try layout.requests(&plan, options);
        return plan;
    }

    pub fn deinit(self: *Plan) void {
        const gpa = self.gpa;
        self.requests.deinit(gpa);
        self.job_begins.deinit(gpa);
        self.jobs.deinit(gpa);
        self.users.deinit(gpa);
        self.targets.deinit(gpa);
        self.segments.deinit(gpa);
        self.pieces.deinit(gpa);
        gpa.free(self.placements);
        self.allocations.deinit(gpa);
        self.arena.deinit();
        self.* = undefined;
    }

    /// Where a job's first byte lies in the decoded bytes of its tensor. Jobs of foreign tensors may
    /// begin within their chunk, and are stored as they are decoded.
    pub fn decodedBegin(self: *const Plan, job: Job) u64 {
        const data_offset = self.index.tensors[job.tensor].data_offset;
        // What lies before the data, or belongs to none (0), is a record header: a whole of its own.
        const is_data = data_offset != 0 and job.offset >= data_offset;
        if (job.digest == null and is_data) return job.offset - data_offset;
        return job.chunk * self.index.chunk_size;
    }

    /// The targets that need a part of a job's chunk; none when the chunk needs no copying.
    pub fn usersOf(self: *const Plan, job: Job) []const u32 {
        return self.users.items[job.user_begin..][0..job.user_count];
    }
};

/// A want, by its tensor's place in the file.
const SortedWant = packed struct(u64) {
    want: u32,
    order: u32,

    fn lessThan(_: void, a: SortedWant, b: SortedWant) bool {
        return @as(u64, @bitCast(a)) < @as(u64, @bitCast(b));
    }
};

/// A target needs something of a chunk.
const Demand = packed struct(u64) {
    target: u32,
    chunk: u32,

    fn lessThan(_: void, a: Demand, b: Demand) bool {
        return @as(u64, @bitCast(a)) < @as(u64, @bitCast(b));
    }
};

/// What is known only while planning.
const Planner = struct {
    plan: *Plan,
    index: Index,
    wants: []const Want,
    options: Options,
    slabs: layout.Slabs,
    diagnostic: *status.Diagnostic,
    /// Of the tensor at hand.
    first_target: usize = 0,
    demands: std.ArrayList(Demand) = .empty,

    fn sortWants(self: *Planner) Error![]SortedWant {
        // The two largest numbers of an allocation mean staging and nowhere.
        if (self.wants.len >= to_nowhere) return error.Argument;
        const sorted = try self.plan.gpa.alloc(SortedWant, self.wants.len);
        errdefer self.plan.gpa.free(sorted);

        for (self.wants, sorted, 0..) |want, *entry, number| {
            if (want.tensor >= self.index.tensors.len) return error.Argument;
            const owner = self.index.tensors[self.index.owner(want.tensor)];
            entry.* = .{ .order = owner.order, .want = @intCast(number) };
        }
        std.mem.sortUnstable(SortedWant, sorted, {}, SortedWant.lessThan);
        return sorted;
    }

    /// Places the wants of one tensor's record header, which lies right before its data.
    fn addRecord(self: *Planner, owner: u32, wants: []const SortedWant) Error!void {
        const plan = self.plan;
        var shared: ?Placement = null;
        for (wants) |entry| {
            const want = self.wants[entry.want];
            if (want.flags & want_record == 0) continue;
            if (self.index.records.len == 0) return error.Argument;
            if (want.begin != null or want.end != null) return error.Argument;
            if (shared) |placement| {
                plan.placements[entry.want] = placement;
                continue;
            }
            const record = self.index.records[owner];
            const placement = try self.place(record.size, record.offset, true);
            plan.placements[entry.want] = placement;
            shared = placement;
            plan.bytes_wanted = bytes.add(plan.bytes_wanted, record.size) orelse return error.Limit;
            const target: u32 = @intCast(plan.targets.items.len);
            try plan.targets.append(plan.gpa, .{
                .want = entry.want,
                .allocation = placement.allocation,
                .position = placement.position,
                .box = .whole(record.size),
            });
            const chunk: chunk_table.Chunk = .{
                .offset = record.offset,
                .decoded_begin = 0,
                .stored_length = record.size,
                .decoded_length = record.size,
                .codec = format.codec_raw,
                .digest = null,
            };
            try self.addJob(owner, 0, chunk, &.{.{ .target = target, .chunk = 0 }});
        }
    }

    /// Places all wants of one owner's data.
    fn addTargets(self: *Planner, owner: u32, wants: []const SortedWant) Error!void {
        const plan = self.plan;
        const tensor = self.index.tensors[owner];
        self.first_target = plan.targets.items.len;
        var shared: ?Placement = null;
        for (wants) |entry| {
            const want = self.wants[entry.want];
            if (want.flags & want_record != 0) continue;
            const box = self.boxOf(tensor, want) catch |err| {
                self.diagnostic.tensor = want.tensor;
                return err;
            };
            if (box == null) if (shared) |placement| {
                plan.placements[entry.want] = placement;
                continue;
            };
            const size = if (box) |part| part.size else tensor.decoded_size;
            const placement = try self.place(size, tensor.data_offset, box == null);
            plan.placements[entry.want] = placement;
            if (box == null) shared = placement;
            if (placement.size == 0) continue;
            plan.bytes_wanted = bytes.add(plan.bytes_wanted, placement.size) orelse
                return error.Limit;
            try plan.targets.append(plan.gpa, .{
                .want = entry.want,
                .allocation = placement.allocation,
                .position = placement.position,
                .box = box orelse .whole(tensor.decoded_size),
            });
        }
    }

    /// Null: the whole tensor.
    fn boxOf(self: *Planner, tensor: Tensor, want: Want) Error!?Box {
        const dtype = dtypes.byCode(tensor.dtype) orelse {
            self.diagnostic.rule = 60;
            return error.Feature;
        };
        const unit_size = dtype.unitSize();
        const rank = tensor.shape.len;
        if (rank == 0) return null;
        if (want.begin == null and want.end == null) return null;
        const begin = want.begin orelse return error.Argument;
        const end = want.end orelse return error.Argument;
        var buffer: boxes.Buffer = undefined;
        var box: Box = try .init(&buffer, tensor.shape, unit_size, begin[0..rank], end[0..rank]);
        // A shape without values.
        if (tensor.decoded_size == 0) return .whole(0);
        if (self.options.staged and !box.isContiguous()) return error.Argument;
        box.outer = try self.plan.arena.allocator().dupe(boxes.Dimension, box.outer);
        return box;
    }

    /// `offset` is where a whole tensor or record begins in the file.
    fn place(self: *Planner, size: u64, offset: u64, is_whole: bool) Error!Placement {
        if (size == 0 or self.options.staged) return .{ .size = size };
        const allocations = &self.plan.allocations;
        if (is_whole and self.slabs.takes(size)) {
            return self.slabs.place(self.plan.gpa, allocations, size, offset);
        }
        try allocations.append(self.plan.gpa, size);
        return .{ .size = size, .allocation = @intCast(allocations.items.len - 1) };
    }

    /// The chunks that the newest targets, all of one owner, need.
    fn addJobs(self: *Planner, header: anytype, owner: u32) Error!void {
        const plan = self.plan;
        if (plan.targets.items.len == self.first_target) return;
        // First of all: that the entries are there bounds what follows.
        var chunks = header.chunks(owner) catch |err| {
            self.diagnostic.tensor = owner;
            return err;
        };
        try self.collectDemands(self.index.tensors[owner]);
        const demands = self.demands.items;
        try plan.jobs.ensureUnusedCapacity(plan.gpa, demands.len);
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
            try self.addJob(owner, number, chunk, demands[begin..end]);
            begin = end;
        }
    }

    fn addJob(
        self: *Planner,
        tensor: u32,
        number: u32,
        chunk: chunk_table.Chunk,
        demands: []const Demand,
    ) Error!void {
        var job: Job = .{
            .digest = chunk.digest,
            .offset = chunk.offset,
            .stored_length = chunk.stored_length,
            .decoded_length = chunk.decoded_length,
            .crc = chunk.crc,
            .tensor = tensor,
            .chunk = number,
            .codec = chunk.codec,
        };
        if (!self.aimAtTarget(&job, chunk, demands)) try self.addUsers(&job, demands);
        try self.plan.jobs.append(self.plan.gpa, job);
    }

    /// Foreign formats have nothing to check whole chunks against, so only what is wanted is read.
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
            foreign_chunk_count_max -| self.plan.jobs.items.len
        else
            std.math.maxInt(u32);
        for (targets[self.first_target..], self.first_target..) |target, number| {
            // Before anything of that size is taken.
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

    /// Whether the chunk goes straight to its final place.
    fn aimAtTarget(
        self: *Planner,
        job: *Job,
        chunk: chunk_table.Chunk,
        demands: []const Demand,
    ) bool {
        if (self.options.staged or demands.len != 1) return false;
        const target = self.plan.targets.items[demands[0].target];
        if (!target.box.isContiguous()) return false;
        if (chunk.decoded_begin < target.box.begin) return false;
        if (chunk.decoded_begin + chunk.decoded_length > target.box.contiguousEnd()) return false;
        job.decoded_allocation = target.allocation;
        job.decoded_position = target.position + (chunk.decoded_begin - target.box.begin);
        if (chunk.codec == format.codec_raw) {
            job.received_allocation = job.decoded_allocation;
            job.received_position = job.decoded_position;
        }
        return true;
    }

    fn addUsers(self: *Planner, job: *Job, demands: []const Demand) Error!void {
        const users = &self.plan.users;
        if (users.items.len + demands.len > std.math.maxInt(u32)) return error.Limit;
        job.user_begin = @intCast(users.items.len);
        job.user_count = @intCast(demands.len);
        try users.ensureUnusedCapacity(self.plan.gpa, demands.len);
        for (demands) |demand| users.appendAssumeCapacity(demand.target);
    }
};

comptime {
    // The C interface hands these out as they are.
    std.debug.assert(@sizeOf(Want) == 24 and @sizeOf(Request) == 48 and @sizeOf(Segment) == 24);
    std.debug.assert(@sizeOf(Placement) == 24 and @sizeOf(Piece) == 32);
    if (@sizeOf(usize) == 8) std.debug.assert(@sizeOf(Job) == 72);
}
