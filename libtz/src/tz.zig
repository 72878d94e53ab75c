//! libtz: the core of the .tz tensor file format, without I/O, threads or global state.
//! C callers use include/tz.h (implemented in c_api.zig), Zig callers import this file.

const std = @import("std");

pub const checksum = @import("checksum.zig");
pub const dispatch = @import("dispatch.zig");
pub const status = @import("status.zig");

comptime {
    _ = @import("c_api.zig");
}

test {
    std.testing.refAllDecls(@This());
    _ = @import("checksum/crc32c.zig");
}
