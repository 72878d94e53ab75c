//! CRC-32C (Castagnoli, RFC 3720): the polynomial 0x1EDC6F41, bit-reflected, with the register
//! inverted before and after. Three implementations; the kernels use the best one that the CPU
//! this file is compiled for can run.
//!
//!   scalar  slicing by 8                     any CPU; the twin the others are tested against
//!   hw3     the CRC32 instruction on three   x86-64 with SSE 4.2, AArch64 with CRC
//!           parts of the input at once
//!   fold    carry-less multiplication        x86-64 with AVX-512 and VPCLMULQDQ

const std = @import("std");
const builtin = @import("builtin");
const streaming = @import("../streaming.zig");

const polynomial: u32 = 0x82f6_3b78; // reflected

const has_instruction = switch (builtin.cpu.arch) {
    .x86_64 => builtin.cpu.has(.x86, .crc32),
    .aarch64 => builtin.cpu.has(.aarch64, .crc),
    else => false,
};
const has_fold = has_instruction and
    builtin.cpu.arch == .x86_64 and builtin.cpu.hasAll(.x86, &.{ .vpclmulqdq, .avx512f });

pub fn kernel(initial: u32, data: [*]const u8, size: usize) callconv(.c) u32 {
    return ~best(~initial, data[0..size]);
}

pub fn copyKernel(
    initial: u32,
    noalias destination: [*]u8,
    noalias source: [*]const u8,
    size: usize,
) callconv(.c) u32 {
    const misalignment = -%@intFromPtr(destination) % streaming.alignment;
    const head = source[0..@min(size, misalignment)];
    @memcpy(destination, head);
    const register = best(~initial, head);
    const aligned: [*]u8 = @alignCast(destination + head.len);
    return ~bestCopy(register, aligned, source[head.len..size]);
}

const best = if (has_fold) fold else if (has_instruction) hw3 else scalar;
const bestCopy = if (has_fold) foldCopy else pieceCopy;

/// All implementations below take and return the register as it is, not inverted.
pub fn scalar(register: u32, bytes: []const u8) u32 {
    var crc = register;
    var rest = bytes;
    while (rest.len >= 8) : (rest = rest[8..]) {
        const word = std.mem.readInt(u64, rest[0..8], .little) ^ crc;
        crc = 0;
        inline for (0..8) |index| {
            crc ^= slicing[7 - index][@as(u8, @truncate(word >> (8 * index)))];
        }
    }
    for (rest) |byte| crc = slicing[0][@as(u8, @truncate(crc)) ^ byte] ^ (crc >> 8);
    return crc;
}

/// `slicing[k][b]`: the register after byte `b` and then `k` zero bytes, from a zero register.
const slicing: [8][256]u32 = blk: {
    @setEvalBranchQuota(50_000);
    var tables: [8][256]u32 = undefined;
    for (&tables[0], 0..) |*entry, byte| {
        var crc: u32 = byte;
        for (0..8) |_| crc = timesX(crc);
        entry.* = crc;
    }
    for (1..8) |k| {
        for (&tables[k], tables[k - 1]) |*entry, crc| {
            entry.* = tables[0][@as(u8, @truncate(crc))] ^ (crc >> 8);
        }
    }
    break :blk tables;
};

/// Multiplies by x modulo the polynomial. Reflected: bit 31 is x^0, bit 0 is x^31.
fn timesX(value: u32) u32 {
    return (value >> 1) ^ (polynomial & (0 -% (value & 1)));
}

/// Sizes of the three parts in `hw3`: long ones to seldom pay for joining them, short ones for
/// the rest.
const part_sizes = .{ 8192, 256 };

const cache_line = 64;

/// The instruction takes three cycles but one can start in each, so three parts of the input run
/// side by side. "Append n zero bytes" is a linear map; it joins them.
fn hw3(register: u32, bytes: []const u8) u32 {
    var crc: u32 = register;
    var rest = bytes;
    inline for (part_sizes) |part_size| {
        const append = comptime &appendZeros(part_size);
        while (rest.len >= 3 * part_size) : (rest = rest[3 * part_size ..]) {
            var a = crc;
            var b: u32 = 0;
            var c: u32 = 0;
            var offset: usize = 0;
            while (offset < part_size) : (offset += cache_line) {
                const line = rest.ptr + offset;
                inline for (3..6) |part| prefetch(line, part * part_size);
                inline for (0..cache_line / 8) |index| {
                    a = step64(a, load(line + 8 * index));
                    b = step64(b, load(line + part_size + 8 * index));
                    c = step64(c, load(line + 2 * part_size + 8 * index));
                }
            }
            crc = apply(append, apply(append, a) ^ b) ^ c;
        }
    }
    while (rest.len >= 8) : (rest = rest[8..]) crc = step64(crc, load(rest.ptr));
    for (rest) |byte| crc = step8(crc, byte);
    return crc;
}

/// Three streams are more than some CPUs follow on their own. Beyond the end of the input this
/// does nothing; an integer, since a pointer may not point there.
inline fn prefetch(line: [*]const u8, distance: usize) void {
    @prefetch(@as([*]const u8, @ptrFromInt(@intFromPtr(line) +% distance)), .{});
}

inline fn load(data: [*]const u8) u64 {
    return std.mem.readInt(u64, data[0..8], .little);
}

inline fn step64(crc: u32, word: u64) u32 {
    return switch (builtin.cpu.arch) {
        .x86_64 => @truncate(asm ("crc32q %[word], %[result]"
            : [result] "=r" (-> u64),
            : [word] "r" (word),
              [_] "0" (@as(u64, crc)),
        )),
        .aarch64 => asm ("crc32cx %[result:w], %[crc:w], %[word]"
            : [result] "=r" (-> u32),
            : [crc] "r" (crc),
              [word] "r" (word),
        ),
        else => comptime unreachable,
    };
}

inline fn step8(crc: u32, byte: u8) u32 {
    return switch (builtin.cpu.arch) {
        .x86_64 => asm ("crc32b %[byte], %[result]"
            : [result] "=r" (-> u32),
            : [byte] "r" (byte),
              [_] "0" (crc),
        ),
        .aarch64 => asm ("crc32cb %[result:w], %[crc:w], %[byte:w]"
            : [result] "=r" (-> u32),
            : [crc] "r" (crc),
              [byte] "r" (@as(u32, byte)),
        ),
        else => comptime unreachable,
    };
}

/// "Append `size` zero bytes" as a table for each byte of the register.
const Append = [4][256]u32;

fn appendZeros(comptime size: usize) Append {
    @setEvalBranchQuota(200_000);
    // What becomes of each single bit; the map is linear over GF(2).
    const factor = powerOfX(8 * size);
    var images: [32]u32 = undefined;
    for (&images, 0..) |*image, index| image.* = multiply(factor, @as(u32, 1) << index);
    var tables: Append = undefined;
    for (&tables, 0..) |*table, position| {
        for (table, 0..) |*entry, byte| {
            entry.* = 0;
            for (0..8) |bit| {
                if (byte >> bit & 1 != 0) entry.* ^= images[8 * position + bit];
            }
        }
    }
    return tables;
}

inline fn apply(append: *const Append, crc: u32) u32 {
    var result: u32 = 0;
    inline for (append, 0..) |*table, position| {
        result ^= table[@as(u8, @truncate(crc >> (8 * position)))];
    }
    return result;
}

/// x^`exponent` modulo the polynomial.
fn powerOfX(comptime exponent: usize) u32 {
    @setEvalBranchQuota(200_000);
    var result: u32 = 1 << 31; // x^0
    var square: u32 = 1 << 30; // x^1
    var bits = exponent;
    while (bits != 0) : (bits >>= 1) {
        if (bits & 1 != 0) result = multiply(result, square);
        square = multiply(square, square);
    }
    return result;
}

fn multiply(a: u32, b: u32) u32 {
    var product: u32 = 0;
    var multiple = b;
    var bits = a;
    while (bits != 0) : (bits <<= 1) {
        if (bits & (1 << 31) != 0) product ^= multiple;
        multiple = timesX(multiple);
    }
    return product;
}

/// Four 128-bit lanes, each a polynomial of degree 127.
const Lanes = @Vector(8, u64);
const fold_step = 4 * @sizeOf(Lanes);

fn fold(register: u32, bytes: []const u8) u32 {
    return foldMaybeCopy(false, register, undefined, bytes);
}

fn foldCopy(register: u32, noalias destination: [*]u8, noalias source: []const u8) u32 {
    return foldMaybeCopy(true, register, destination, source);
}

/// Folds `fold_step` bytes at a time into four accumulators: a lane times x^n, n being the
/// distance to the bytes it meets next, is congruent to two 64-bit carry-less products. The last
/// 64 bytes and the rest go through the CRC32 instruction.
inline fn foldMaybeCopy(
    comptime is_copying: bool,
    register: u32,
    noalias destination: [*]u8,
    noalias bytes: []const u8,
) u32 {
    const whole = bytes.len - bytes.len % fold_step;
    var crc = register;
    if (whole >= 2 * fold_step) {
        var lanes: [4]Lanes = undefined;
        inline for (&lanes, 0..) |*lane, index| {
            const position = index * @sizeOf(Lanes);
            lane.* = loadLanes(bytes.ptr + position);
            if (is_copying) streaming.store(destination + position, lane.*);
        }
        lanes[0] ^= Lanes{ register, 0, 0, 0, 0, 0, 0, 0 };
        var offset: usize = fold_step;
        while (offset < whole) : (offset += fold_step) {
            inline for (&lanes, 0..) |*lane, index| {
                const position = offset + index * @sizeOf(Lanes);
                const next = loadLanes(bytes.ptr + position);
                if (is_copying) streaming.store(destination + position, next);
                lane.* = moved(lane.*, fold_step) ^ next;
            }
        }
        if (is_copying) streaming.fence();
        const last: [8]u64 = moved(lanes[0], 3 * @sizeOf(Lanes)) ^
            moved(lanes[1], 2 * @sizeOf(Lanes)) ^ moved(lanes[2], @sizeOf(Lanes)) ^ lanes[3];
        crc = 0;
        inline for (last) |word| crc = step64(crc, word);
    }
    const rest = bytes[if (whole >= 2 * fold_step) whole else 0..];
    if (is_copying) @memcpy(destination + bytes.len - rest.len, rest);
    return hw3(crc, rest);
}

/// Small enough to still lie in the first-level cache when it is copied.
const piece_size = 16 * 1024;

fn pieceCopy(register: u32, noalias destination: [*]u8, noalias source: []const u8) u32 {
    var crc = register;
    var offset: usize = 0;
    while (offset < source.len) : (offset += piece_size) {
        const piece = source[offset..][0..@min(piece_size, source.len - offset)];
        crc = best(crc, piece);
        streaming.copy(destination + offset, piece);
    }
    streaming.fence();
    return crc;
}

inline fn loadLanes(data: [*]const u8) Lanes {
    return @as(*align(1) const Lanes, @ptrCast(data)).*;
}

/// `lanes` moved `distance` bytes towards the end of the message, modulo the polynomial.
inline fn moved(lanes: Lanes, comptime distance: usize) Lanes {
    // A product of reflected values comes out one bit low, hence the shift.
    const low: u64 = comptime @as(u64, powerOfX(8 * distance + 32)) << 1;
    const high: u64 = comptime @as(u64, powerOfX(8 * distance - 32)) << 1;
    const factors: Lanes = .{ low, high, low, high, low, high, low, high };
    return carrylessMultiply(lanes, factors, 0x00) ^ carrylessMultiply(lanes, factors, 0x11);
}

/// Per lane, the low (0x00) or high (0x11) halves of both.
inline fn carrylessMultiply(a: Lanes, b: Lanes, comptime halves: u8) Lanes {
    return asm (std.fmt.comptimePrint("vpclmulqdq ${d}, %[a], %[b], %[r]", .{halves})
        : [r] "=v" (-> Lanes),
        : [a] "v" (a),
          [b] "v" (b),
    );
}
