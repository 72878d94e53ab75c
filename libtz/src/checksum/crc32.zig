//! CRC-32C (Castagnoli, RFC 3720, polynomial 0x1EDC6F41) of tz files, and CRC-32 (zlib, RFC 1952,
//! 0x04C11DB7) of .tensors files. Both are bit-reflected, with the register inverted before and
//! after. There are three implementations; kernels use the best one of their CPU level.
//!
//!   scalar  slicing by 8              any CPU; the tests compare the others with it
//!   hw3     the CRC32 instruction on  CRC-32C: x86-64 with SSE 4.2, AArch64 with CRC
//!           three parts at once       CRC-32: AArch64 with CRC
//!   fold    carry-less                CRC-32C: x86-64 with VPCLMULQDQ and AVX-512
//!           multiplication            CRC-32: x86-64 with PCLMULQDQ or VPCLMULQDQ

const std = @import("std");
const builtin = @import("builtin");
const streaming = @import("../streaming.zig");

/// Reflected: bit 31 is x^0, bit 0 is x^31.
pub const Polynomial = enum(u32) {
    castagnoli = 0x82f6_3b78,
    zlib = 0xedb8_8320,
};

/// The instructions of a CPU for a polynomial.
pub const Machine = struct {
    has_instruction: bool,
    /// How many 128-bit lanes one carry-less multiplication takes; 0 without any.
    lane_count: usize,
    /// Multiplies by the definition, so that any CPU can test what another one does.
    is_emulated: bool = false,

    fn compiledFor(polynomial: Polynomial) Machine {
        const cpu = builtin.cpu;
        const has_instruction = switch (cpu.arch) {
            .x86_64 => polynomial == .castagnoli and cpu.has(.x86, .crc32),
            .aarch64 => cpu.has(.aarch64, .crc),
            else => false,
        };
        if (cpu.arch != .x86_64) return .{ .has_instruction = has_instruction, .lane_count = 0 };
        const lane_count = if (cpu.hasAll(.x86, &.{ .vpclmulqdq, .avx512f }))
            4
        else if (has_instruction)
            0 // which is faster than two lanes
        else if (cpu.has(.x86, .vpclmulqdq))
            2
        else
            @intFromBool(cpu.has(.x86, .pclmul));
        return .{ .has_instruction = has_instruction, .lane_count = lane_count };
    }
};

/// A constant, since debug builds would otherwise compile both branches.
const has_avx = builtin.cpu.arch == .x86_64 and builtin.cpu.has(.x86, .avx);

pub fn Crc32(comptime polynomial: Polynomial) type {
    return Crc32On(polynomial, .compiledFor(polynomial));
}

pub fn Crc32On(comptime polynomial: Polynomial, comptime machine: Machine) type {
    return struct {
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

        pub const best = if (machine.lane_count != 0) fold else sequential;
        const bestCopy = if (machine.lane_count != 0) foldCopy else pieceCopy;
        const sequential = if (machine.has_instruction) hw3 else scalar;

        /// All implementations below take and return the register without inversion.
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

        /// `slicing[k][b]`: the register after byte `b` and `k` zero bytes, starting with 0.
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

        /// Multiplies by x modulo the polynomial.
        fn timesX(value: u32) u32 {
            return (value >> 1) ^ (@backingInt(polynomial) & (0 -% (value & 1)));
        }

        /// Sizes of the three parts in `hw3`: long parts, so that joins are rare, and short parts
        /// for the rest.
        const part_sizes = .{ 8192, 256 };

        const cache_line = 64;

        /// The instruction has a latency of three cycles and a throughput of one per cycle, so
        /// three parts of the input are processed in parallel. They are joined by the linear map
        /// "append n zero bytes".
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

        /// Prefetches, since some CPUs do not recognise three streams. The address may be past the
        /// end of the input, where prefetching does nothing; it is an integer, since a pointer must
        /// not point there.
        inline fn prefetch(line: [*]const u8, distance: usize) void {
            @prefetch(@as([*]const u8, @ptrFromInt(@intFromPtr(line) +% distance)), .{});
        }

        inline fn load(data: [*]const u8) u64 {
            return std.mem.readInt(u64, data[0..8], .little);
        }

        /// AArch64 has one instruction for each polynomial.
        const instruction = if (polynomial == .castagnoli) "crc32c" else "crc32";

        inline fn step64(crc: u32, word: u64) u32 {
            return switch (builtin.cpu.arch) {
                .x86_64 => @truncate(asm ("crc32q %[word], %[result]"
                    : [result] "=r" (-> u64),
                    : [word] "r" (word),
                      [_] "0" (@as(u64, crc)),
                )),
                .aarch64 => asm (instruction ++ "x %[result:w], %[crc:w], %[word]"
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
                .aarch64 => asm (instruction ++ "b %[result:w], %[crc:w], %[byte:w]"
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
            // The result for each single bit; the map is linear over GF(2).
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

        /// 128-bit lanes, each a polynomial of degree 127.
        const word_count = 2 * machine.lane_count;
        const Lanes = @Vector(word_count, u64);
        const fold_step = 4 * @sizeOf(Lanes);
        /// For shorter input, the CRC instruction is faster, if there is one.
        const fold_size_min = if (machine.has_instruction) 2 * fold_step else fold_step;

        fn fold(register: u32, bytes: []const u8) u32 {
            return foldMaybeCopy(false, register, undefined, bytes);
        }

        fn foldCopy(register: u32, noalias destination: [*]u8, noalias source: []const u8) u32 {
            return foldMaybeCopy(true, register, destination, source);
        }

        /// Folds `fold_step` bytes at a time into four accumulators. A lane times x^n, where n is
        /// the distance to the next bytes, is congruent to two 64-bit carry-less products. The last
        /// lanes and the rest are left to the CRC instruction or to the scalar implementation.
        inline fn foldMaybeCopy(
            comptime is_copying: bool,
            register: u32,
            noalias destination: [*]u8,
            noalias bytes: []const u8,
        ) u32 {
            const whole = bytes.len - bytes.len % fold_step;
            var crc = register;
            if (whole >= fold_size_min) {
                var lanes: [4]Lanes = undefined;
                inline for (&lanes, 0..) |*lane, index| {
                    const position = index * @sizeOf(Lanes);
                    lane.* = loadLanes(bytes.ptr + position);
                    if (is_copying) streaming.store(destination + position, lane.*);
                }
                lanes[0] ^= first_word * @as(Lanes, @splat(register));
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
                const last: [word_count]u64 = moved(lanes[0], 3 * @sizeOf(Lanes)) ^
                    moved(lanes[1], 2 * @sizeOf(Lanes)) ^ moved(lanes[2], @sizeOf(Lanes)) ^
                    lanes[3];
                crc = sequential(0, std.mem.asBytes(&last));
            }
            const rest = bytes[if (whole >= fold_size_min) whole else 0..];
            if (is_copying) @memcpy(destination + bytes.len - rest.len, rest);
            return sequential(crc, rest);
        }

        /// Small enough to be still in the first-level cache when it is copied.
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

        const first_word: Lanes = blk: {
            var words: [word_count]u64 = @splat(0);
            words[0] = 1;
            break :blk words;
        };

        inline fn loadLanes(data: [*]const u8) Lanes {
            return @as(*align(1) const Lanes, @ptrCast(data)).*;
        }

        /// `lanes` moved `distance` bytes towards the end of the message, modulo the polynomial.
        inline fn moved(lanes: Lanes, comptime distance: usize) Lanes {
            // The product of reflected values is one bit too low, hence the shift.
            const low: u64 = comptime @as(u64, powerOfX(8 * distance + 32)) << 1;
            const high: u64 = comptime @as(u64, powerOfX(8 * distance - 32)) << 1;
            const factors: Lanes = @bitCast(@as([word_count / 2][2]u64, @splat(.{ low, high })));
            const lows = carrylessMultiply(lanes, factors, 0x00);
            return lows ^ carrylessMultiply(lanes, factors, 0x11);
        }

        /// For each lane, the product of the low (0x00) or high (0x11) halves.
        inline fn carrylessMultiply(a: Lanes, b: Lanes, comptime halves: u8) Lanes {
            if (machine.is_emulated) return emulatedMultiply(a, b, halves & 1);
            const immediate = std.fmt.comptimePrint("${d}, ", .{halves});
            if (has_avx) {
                return asm ("vpclmulqdq " ++ immediate ++ "%[b], %[a], %[r]"
                    : [r] "=v" (-> Lanes),
                    : [a] "v" (a),
                      [b] "v" (b),
                );
            }
            return asm ("pclmulqdq " ++ immediate ++ "%[b], %[r]"
                : [r] "=x" (-> Lanes),
                : [_] "0" (a),
                  [b] "x" (b),
            );
        }

        fn emulatedMultiply(a: Lanes, b: Lanes, half: usize) Lanes {
            const left: [word_count]u64 = a;
            const right: [word_count]u64 = b;
            var products: [word_count]u64 = undefined;
            for (0..machine.lane_count) |lane| {
                var product: u128 = 0;
                for (0..64) |bit| {
                    if (left[2 * lane + half] >> @intCast(bit) & 1 == 0) continue;
                    product ^= @as(u128, right[2 * lane + half]) << @intCast(bit);
                }
                products[2 * lane] = @truncate(product);
                products[2 * lane + 1] = @intCast(product >> 64);
            }
            return products;
        }
    };
}
