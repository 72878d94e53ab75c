//! The vector instructions that the codec needs and Zig has no builtin for: byte shuffles by
//! run-time indices, and spreading or gathering bytes by a mask. The CPU that this file is compiled
//! for selects them.
//!
//!   AVX-512 with VBMI2   64 lanes   vpshufb, vpexpandb, vpcompressb
//!   AVX2                 32 lanes   vpshufb; spreading and gathering eight bytes at a time, with
//!   SSE4.1, SSSE3        16 lanes   pshufb   indices out of tables of 256 entries
//!   NEON                 16 lanes   tbl

const std = @import("std");
const builtin = @import("builtin");

const Set = enum { none, neon, sse, avx2, avx512 };

const set: Set = switch (builtin.cpu.arch) {
    .x86_64 => if (builtin.cpu.hasAll(.x86, &.{ .avx512bw, .avx512vbmi, .avx512vbmi2 }))
        .avx512
    else if (builtin.cpu.hasAll(.x86, &.{ .avx2, .popcnt }))
        .avx2
    else if (builtin.cpu.hasAll(.x86, &.{ .sse4_1, .ssse3, .popcnt }))
        .sse
    else
        .none,
    .aarch64 => if (builtin.cpu.has(.aarch64, .neon)) .neon else .none,
    else => .none,
};

/// Bytes in a vector; 0 if only the scalar kernels can run.
pub const lanes: usize = switch (set) {
    .none => 0,
    .sse, .neon => 16,
    .avx2 => 32,
    .avx512 => 64,
};

pub const Vector = @Vector(lanes, u8);
pub const Mask = @Int(.unsigned, lanes);
/// Bytes covered by one byte shuffle.
const Sixteen = @Vector(16, u8);

pub inline fn splat(byte: u8) Vector {
    return @splat(byte);
}

pub inline fn maskOf(matches: @Vector(lanes, bool)) Mask {
    return @bitCast(matches);
}

pub inline fn load(from: [*]const u8) Vector {
    return from[0..lanes].*;
}

pub inline fn store(to: [*]u8, vector: Vector) void {
    to[0..lanes].* = vector;
}

/// Stores that bypass the caches, if the CPU has them: lines that are not read soon need not be
/// fetched before they are filled. `to` is aligned to a vector. End with `endStream`.
pub inline fn stream(to: [*]u8, vector: Vector) void {
    switch (set) {
        .avx512, .avx2 => asm volatile ("vmovntdq %[vector], (%[to])"
            :
            : [vector] "v" (vector),
              [to] "r" (to),
            : .{ .memory = true }),
        .sse => asm volatile ("movntdq %[vector], (%[to])"
            :
            : [vector] "x" (vector),
              [to] "r" (to),
            : .{ .memory = true }),
        .neon => store(to, vector),
        .none => comptime unreachable,
    }
}

/// Makes streamed bytes visible before later stores.
pub inline fn endStream() void {
    switch (set) {
        .avx512, .avx2, .sse => asm volatile ("sfence" ::: .{ .memory = true }),
        .neon, .none => {},
    }
}

/// `table[index]` for indices below 16; `table` repeats its 16 entries to the vector's end.
pub inline fn lookup(table: Vector, indices: Vector) Vector {
    return switch (set) {
        .avx512, .avx2 => asm ("vpshufb %[indices], %[table], %[result]"
            : [result] "=v" (-> Vector),
            : [table] "v" (table),
              [indices] "v" (indices),
        ),
        .sse, .neon => shuffle(table, indices),
        .none => comptime unreachable,
    };
}

/// Puts the first bytes of `from` into the lanes of `vector` selected by `mask`, in order. These
/// lanes must be zero before. May read a whole vector from `from`.
pub inline fn spread(vector: Vector, mask: Mask, from: [*]const u8) Vector {
    if (set == .avx512) {
        return asm ("vpexpandb %[bytes], %[result] {%[mask]}"
            : [result] "=v" (-> Vector),
            : [_] "0" (vector),
              [bytes] "v" (load(from)),
              [mask] "^Yk" (mask),
        );
    }
    var next = from;
    var eights: @Vector(lanes / 8, u64) = undefined;
    inline for (0..lanes / 8) |index| {
        const part: u8 = @truncate(mask >> (8 * index));
        eights[index] = shuffleEight(next, &spread_indices[part]);
        next += @popCount(part);
    }
    return vector | @as(Vector, @bitCast(eights));
}

/// Stores the bytes in the lanes of `vector` selected by `mask` one after another. `source` points
/// to the same bytes in memory. May write a whole vector.
pub inline fn gather(to: [*]u8, mask: Mask, vector: Vector, source: [*]const u8) void {
    if (set == .avx512) {
        // Compressing into a register first: AMD's form with a memory operand is slow.
        store(to, asm ("vpcompressb %[bytes], %[result] {%[mask]}{z}"
            : [result] "=v" (-> Vector),
            : [bytes] "v" (vector),
              [mask] "^Yk" (mask),
        ));
        return;
    }
    var next = to;
    inline for (0..lanes / 8) |index| {
        const part: u8 = @truncate(mask >> (8 * index));
        next[0..8].* = @bitCast(shuffleEight(source + 8 * index, &gather_indices[part]));
        next += @popCount(part);
    }
}

inline fn shuffleEight(from: [*]const u8, indices: *const [8]u8) u64 {
    const shuffled = shuffle(lowEight(from[0..8]), lowEight(indices));
    return @as(@Vector(2, u64), @bitCast(shuffled))[0];
}

inline fn lowEight(from: *const [8]u8) Sixteen {
    return @bitCast(@Vector(2, u64){ @bitCast(from.*), 0 });
}

inline fn shuffle(table: Sixteen, indices: Sixteen) Sixteen {
    return switch (set) {
        .avx2 => asm ("vpshufb %[indices], %[table], %[result]"
            : [result] "=x" (-> Sixteen),
            : [table] "x" (table),
              [indices] "x" (indices),
        ),
        .sse => asm ("pshufb %[indices], %[result]"
            : [result] "=x" (-> Sixteen),
            : [_] "0" (table),
              [indices] "x" (indices),
        ),
        .neon => asm ("tbl %[result].16b, {%[table].16b}, %[indices].16b"
            : [result] "=w" (-> Sixteen),
            : [table] "w" (table),
              [indices] "w" (indices),
        ),
        .avx512, .none => comptime unreachable,
    };
}

/// A shuffle index that gives zero.
const none = 0x80;

/// For each mask of eight lanes: byte k of the source goes to the k-th selected lane.
const spread_indices: [256][8]u8 = blk: {
    @setEvalBranchQuota(10_000);
    var table: [256][8]u8 = @splat(@splat(none));
    for (&table, 0..) |*indices, mask| {
        var next = 0;
        for (indices, 0..) |*index, lane| if (mask >> lane & 1 != 0) {
            index.* = next;
            next += 1;
        };
    }
    break :blk table;
};

/// For each mask of eight lanes: the k-th selected lane goes to byte k.
const gather_indices: [256][8]u8 = blk: {
    @setEvalBranchQuota(10_000);
    var table: [256][8]u8 = @splat(@splat(none));
    for (&table, 0..) |*indices, mask| {
        var next = 0;
        for (0..8) |lane| if (mask >> lane & 1 != 0) {
            indices[next] = lane;
            next += 1;
        };
    }
    break :blk table;
};
