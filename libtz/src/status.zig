//! Status codes of the C interface. The numbers are part of the ABI and never change.

pub const Status = enum(i32) {
    ok = 0,
    invalid_argument = 10,
};

/// A constant string for every number, known or not.
pub fn name(code: i32) [:0]const u8 {
    return switch (code) {
        @backingInt(Status.ok) => "TZ_OK",
        @backingInt(Status.invalid_argument) => "TZ_E_INVALID_ARGUMENT",
        else => "TZ_E_UNKNOWN",
    };
}
