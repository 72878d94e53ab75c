//! The entry points for libFuzzer, for the target selected at compile time. fuzz/libfuzzer.py
//! builds and runs it, with AddressSanitizer and Zig's safety checks.

const std = @import("std");
const options = @import("options");
const targets = @import("targets.zig");

const target = targets.find(options.target).?;

extern fn LLVMFuzzerMutate(data: [*]u8, size: usize, size_max: usize) usize;

export fn LLVMFuzzerTestOneInput(data: [*]const u8, size: usize) c_int {
    target.run(data[0..size]) catch |err| std.debug.panic("{s}: {t}", .{ target.name, err });
    return 0;
}

/// One change in four is libFuzzer's own, which uses the operands of comparisons in the code.
export fn LLVMFuzzerCustomMutator(data: [*]u8, size: usize, size_max: usize, seed: c_uint) usize {
    var prng: std.Random.DefaultPrng = .init(seed);
    const random = prng.random();
    const choice = random.uintLessThan(u8, 8);
    if (choice < 2) return LLVMFuzzerMutate(data, size, size_max);
    var arena_state: std.heap.ArenaAllocator = .init(std.heap.c_allocator);
    defer arena_state.deinit();
    const arena = arena_state.allocator();
    const makes = choice == 2 and target.make != null;
    const input = (if (makes)
        target.make.?(arena, random)
    else
        target.mutate(arena, random, data[0..size])) catch @panic("out of memory");
    const kept = @min(input.len, size_max);
    @memcpy(data[0..kept], input[0..kept]);
    return kept;
}
