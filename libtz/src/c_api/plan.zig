//! Exports: plans and their execution, and chunks without a plan.

const std = @import("std");
const c = @import("types.zig");
const codecs = @import("../codec.zig");
const Header = @import("../header.zig").Header;
const Plan = types.Plan;
const planning = @import("../plan.zig");
const processing = @import("../process.zig");
const status = @import("../status.zig");
const Diagnostic = status.Diagnostic;
const Status = status.Status;
const support = @import("support.zig");
const Report = support.Report;
const gpa = support.gpa;
const result = support.result;
const slice = support.slice;
const types = @import("../plan_types.zig");

export fn tz_plan_new(
    header: ?*const Header,
    items: ?*const c.ReadItem,
    item_count: usize,
    options: ?*const c.PlanOptions,
    out: ?**Plan,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    return result(newPlan(header, items, item_count, options, out, &report.diagnostic));
}

fn newPlan(
    header: ?*const Header,
    items: ?*const c.ReadItem,
    item_count: usize,
    options: ?*const c.PlanOptions,
    out: ?**Plan,
    diagnostic: *Diagnostic,
) status.Error!void {
    const self = header orelse return error.Argument;
    const target = out orelse return error.Argument;
    const given: support.Array(c.ReadItem) = try .init(items, item_count);
    const list = try gpa.alloc(types.ReadItem, given.len());
    defer gpa.free(list);
    for (list, 0..) |*item, index| {
        const from = try given.get(index);
        if (from.flags.unused != 0 or from.reserved != 0) return error.Argument;
        item.* = .{
            .tensor = from.tensor,
            .is_record = from.flags.record,
            .begin = from.begin,
            .end = from.end,
        };
    }
    const plan = try gpa.create(Plan);
    errdefer gpa.destroy(plan);
    plan.* = try planning.make(gpa, self, list, try planOptions(options), diagnostic);
    target.* = plan;
}

fn planOptions(given: ?*const c.PlanOptions) error{Argument}!types.Options {
    var chosen: types.Options = .{};
    const from = try support.take(c.PlanOptions, given orelse return chosen);
    if (from.flags.unused != 0) return error.Argument;
    chosen.staged = from.flags.staged;
    if (from.request_size_max != 0) chosen.request_size_max = from.request_size_max;
    if (from.gap_max != 0) chosen.gap_max = from.gap_max;
    chosen.slab_size_max = from.slab_size_max;
    chosen.slab_tensor_max = from.slab_tensor_max;
    return chosen;
}

export fn tz_plan_free(plan: ?*Plan) void {
    const self = plan orelse return;
    self.deinit();
    gpa.destroy(self);
}

export fn tz_plan_get(plan: ?*const Plan, out: ?*c.PlanInfo) Status {
    const self = plan orelse return .argument;
    return result(support.give(out orelse return .argument, .{
        .request_count = @intCast(self.requests.items.len),
        .segment_count = self.segments.items.len,
        .piece_count = self.pieces.items.len,
        .allocation_count = @intCast(self.allocations.items.len),
        .staging_size_max = self.staging_size_max,
        .gap_size_max = self.gap_size_max,
        .bytes_read = self.bytes_read,
        .bytes_wanted = self.bytes_wanted,
    }));
}

export fn tz_plan_requests(plan: *const Plan) [*]const types.Request {
    return plan.requests.items.ptr;
}

export fn tz_plan_segments(plan: *const Plan) [*]const types.Segment {
    return plan.segments.items.ptr;
}

export fn tz_plan_pieces(plan: *const Plan) [*]const types.Piece {
    return plan.pieces.items.ptr;
}

export fn tz_plan_placements(plan: *const Plan) [*]const types.Placement {
    return plan.placements.ptr;
}

export fn tz_plan_allocations(plan: *const Plan) [*]const u64 {
    return plan.allocations.items.ptr;
}

export fn tz_plan_process(
    plan: ?*const Plan,
    request: u32,
    received: u64,
    staging: ?[*]u8,
    allocations: ?[*]const ?*anyopaque,
    verify: u32,
    next: ?*u64,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    const self = plan orelse return .argument;
    const count = next orelse return .argument;
    const addresses = slice(?*anyopaque, allocations, self.allocations.items.len) catch
        return .argument;
    return result(processing.process(self, .{
        .request = request,
        .received = received,
        .staging = staging,
        .allocations = addresses,
        .verify = std.enums.fromInt(processing.Verify, verify) orelse return .argument,
    }, count, &report.diagnostic));
}

export fn tz_chunk_decode(
    header: ?*const Header,
    tensor: u32,
    chunk: ?*const c.Chunk,
    verify: u32,
    stored: ?[*]const u8,
    out: ?[*]u8,
    scratch: ?[*]u8,
) Status {
    const self = header orelse return .argument;
    if (tensor >= self.index.tensors.len) return .argument;
    const given = support.take(c.Chunk, chunk orelse return .argument) catch return .argument;
    if (given.stored_length > given.decoded_length) return .argument;
    if (given.decoded_length > self.index.chunk_size) return .argument;
    const level = std.enums.fromInt(processing.Verify, verify) orelse return .argument;
    return result(processing.processSingle(.{
        .codec = given.codec,
        .dtype = self.index.tensors[tensor].dtype,
        .crc = given.crc,
        .digest = given.digest,
        .stored = slice(u8, stored, given.stored_length) catch return .argument,
        .out = if (out) |start| start[0..given.decoded_length] else null,
        .scratch = if (scratch) |start| start[0..codecs.decode_scratch_size] else &.{},
    }, level));
}

export fn tz_decode_scratch_size() usize {
    return codecs.decode_scratch_size;
}
