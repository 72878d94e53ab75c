//! Which of the CPU levels of build.zig the running CPU has. No libc: CPUID and XGETBV on x86-64,
//! the auxiliary vector on AArch64 Linux.

const std = @import("std");
const builtin = @import("builtin");

/// One set of kernels per level and architecture; build.zig says which features each may use.
/// Later levels of an architecture include the earlier ones.
pub const Level = enum(u32) {
    baseline,
    /// x86-64-v2 with CRC32, AES and PCLMULQDQ: Westmere (2010) and newer.
    v2,
    /// x86-64-v3 (AVX2) with the same: Haswell (2013), Zen 1 and newer.
    v3,
    /// The same with 256-bit VAES and VPCLMULQDQ: Zen 3, Alder Lake and newer without AVX-512.
    v3_vaes,
    /// x86-64-v4 (AVX-512) with VBMI, VBMI2, BITALG, VPOPCNTDQ, SHA, VAES and VPCLMULQDQ:
    /// Ice Lake, Zen 4 and newer.
    v4,
    /// AArch64 with CRC32, AES (with PMULL) and SHA2.
    armv8_crypto,
};

/// The highest level the running CPU and operating system support.
pub fn detect() Level {
    return switch (builtin.cpu.arch) {
        .x86_64 => detectX86(),
        .aarch64 => detectAarch64(),
        else => .baseline,
    };
}

const Registers = struct { eax: u32, ebx: u32, ecx: u32, edx: u32 };

fn cpuid(leaf: u32, subleaf: u32) Registers {
    var eax: u32 = undefined;
    var ebx: u32 = undefined;
    var ecx: u32 = undefined;
    var edx: u32 = undefined;
    asm volatile ("cpuid"
        : [_] "={eax}" (eax),
          [_] "={ebx}" (ebx),
          [_] "={ecx}" (ecx),
          [_] "={edx}" (edx),
        : [_] "{eax}" (leaf),
          [_] "{ecx}" (subleaf),
    );
    return .{ .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx };
}

/// The register states that the operating system saves. Only valid if CPUID reports OSXSAVE.
fn xcr0() u32 {
    return asm volatile (
        \\ xor %%ecx, %%ecx
        \\ xgetbv
        : [_] "={eax}" (-> u32),
        :
        : .{ .edx = true, .ecx = true });
}

fn bits(comptime positions: []const u5) u32 {
    comptime var mask: u32 = 0;
    inline for (positions) |position| mask |= @as(u32, 1) << position;
    return mask;
}

fn has(register: u32, mask: u32) bool {
    return register & mask == mask;
}

fn detectX86() Level {
    if (cpuid(0, 0).eax < 7) return .baseline;
    const leaf1 = cpuid(1, 0);
    const leaf7 = cpuid(7, 0);
    const extended = cpuid(0x8000_0001, 0);

    // sse3, pclmulqdq, ssse3, cmpxchg16b, sse4.1, sse4.2 (and crc32), popcnt, aes; lahf
    if (!has(leaf1.ecx, bits(&.{ 0, 1, 9, 13, 19, 20, 23, 25 }))) return .baseline;
    if (!has(extended.ecx, bits(&.{0}))) return .baseline;

    // fma, movbe, osxsave, avx, f16c; lzcnt; bmi1, avx2, bmi2; the xmm and ymm state
    if (!has(leaf1.ecx, bits(&.{ 12, 22, 27, 28, 29 }))) return .v2;
    if (!has(extended.ecx, bits(&.{5}))) return .v2;
    if (!has(leaf7.ebx, bits(&.{ 3, 5, 8 }))) return .v2;
    if (!has(xcr0(), bits(&.{ 1, 2 }))) return .v2;

    // vaes, vpclmulqdq
    if (!has(leaf7.ecx, bits(&.{ 9, 10 }))) return .v3;

    // avx512f, avx512dq, avx512cd, sha, avx512bw, avx512vl
    if (!has(leaf7.ebx, bits(&.{ 16, 17, 28, 29, 30, 31 }))) return .v3_vaes;
    // avx512vbmi, avx512vbmi2, avx512bitalg, avx512vpopcntdq
    if (!has(leaf7.ecx, bits(&.{ 1, 6, 12, 14 }))) return .v3_vaes;
    // the opmask state and both parts of the zmm state
    if (!has(xcr0(), bits(&.{ 1, 2, 5, 6, 7 }))) return .v3_vaes;
    return .v4;
}

fn detectAarch64() Level {
    switch (builtin.os.tag) {
        // Every 64-bit ARM machine macOS runs on has all of them.
        .macos => return .armv8_crypto,
        .linux => {
            const capabilities: usize = std.os.linux.getauxval(std.elf.AT.HWCAP);
            const needed: usize = comptime bits(&.{ 3, 4, 6, 7 }); // aes, pmull, sha2, crc32
            return if (capabilities & needed == needed) .armv8_crypto else .baseline;
        },
        else => return .baseline,
    }
}
