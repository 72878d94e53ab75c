//! The C interface: the library's only exports. They check pointers, make slices and turn errors
//! into statuses, and have no logic of their own. include/tz.h documents them. In this file:
//! version, checksums, data types.

const std = @import("std");
const options = @import("options");
const c = @import("c_api/types.zig");
const checksum = @import("checksum.zig");
const Digest = @import("index.zig").Digest;
const dispatch = @import("dispatch.zig");
const dtypes = @import("dtype.zig");
const slice = support.slice;
const status = @import("status.zig");
const Status = status.Status;
const support = @import("c_api/support.zig");

comptime {
    _ = @import("c_api/header.zig");
    _ = @import("c_api/record.zig");
    _ = @import("c_api/plan.zig");
    _ = @import("c_api/verifier.zig");
    _ = @import("c_api/builder.zig");
}

export fn tz_status_name(code: i32) [*:0]const u8 {
    return status.name(code);
}

export fn tz_status_text(code: i32) [*:0]const u8 {
    return status.text(code);
}

export fn tz_version() [*:0]const u8 {
    return options.version;
}

export fn tz_abi_version() u32 {
    return options.abi_version;
}

export fn tz_struct_size(name: ?[*:0]const u8) usize {
    return c.structSize(std.mem.span(name orelse return 0));
}

export fn tz_cpu_level() [*:0]const u8 {
    return @tagName(dispatch.kernels().level);
}

export fn tz_crc32c(initial: u32, data: ?[*]const u8, size: usize) u32 {
    return checksum.crc32c(initial, if (data) |pointer| pointer[0..size] else &.{});
}

export fn tz_crc32(initial: u32, data: ?[*]const u8, size: usize) u32 {
    return checksum.crc32(initial, if (data) |pointer| pointer[0..size] else &.{});
}

export fn tz_blake3(data: ?[*]const u8, size: usize, digest: *Digest) void {
    digest.* = checksum.blake3(if (data) |pointer| pointer[0..size] else &.{});
}

export fn tz_blake3_init(state: *checksum.Blake3) void {
    state.* = .init();
}

export fn tz_blake3_update(state: *checksum.Blake3, data: ?[*]const u8, size: usize) void {
    state.update(if (data) |pointer| pointer[0..size] else &.{});
}

export fn tz_blake3_final(state: *const checksum.Blake3, digest: *Digest) void {
    digest.* = state.final();
}

export fn tz_dtype(code: u32, out: ?*c.DtypeInfo) Status {
    const info = dtypes.byCode(code) orelse return .feature;
    return support.result(support.give(out orelse return .argument, .{
        .unit_bits = info.unit_bits,
        .elements = info.elements,
        .name = info.name,
        .safetensors = if (info.safetensors) |name| name.ptr else null,
    }));
}

export fn tz_dtype_code(name: ?[*]const u8, name_size: usize) u32 {
    const text = slice(u8, name, name_size) catch return 0;
    return if (dtypes.byName(text)) |info| info.code else 0;
}
