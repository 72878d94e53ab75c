//! The C interface: the only exports of the library. Checks pointers, makes slices, turns results
//! into status codes; no logic of its own. include/tz.h is its documentation.

const options = @import("options");
const checksum = @import("checksum.zig");
const dispatch = @import("dispatch.zig");
const status = @import("status.zig");
const Status = status.Status;

/// Counts incompatible changes of tz.h.
const abi_version: u32 = 1;

export fn tz_version() [*:0]const u8 {
    return options.version;
}

export fn tz_abi_version() u32 {
    return abi_version;
}

export fn tz_cpu_level() [*:0]const u8 {
    return @tagName(dispatch.kernels().level);
}

export fn tz_status_name(code: i32) [*:0]const u8 {
    return status.name(code);
}

export fn tz_crc32c(initial: u32, data: ?[*]const u8, size: usize, crc: ?*u32) Status {
    const out = crc orelse return .invalid_argument;
    out.* = checksum.crc32c(initial, slice(data, size) orelse return .invalid_argument);
    return .ok;
}

export fn tz_blake3(data: ?[*]const u8, size: usize, digest: ?*[32]u8) Status {
    const out = digest orelse return .invalid_argument;
    out.* = checksum.blake3(slice(data, size) orelse return .invalid_argument);
    return .ok;
}

/// Null is fine for no bytes.
fn slice(data: ?[*]const u8, size: usize) ?[]const u8 {
    if (size == 0) return &.{};
    return (data orelse return null)[0..size];
}
