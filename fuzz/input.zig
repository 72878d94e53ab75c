//! The inputs of targets that read tz files: eight bytes that seed the target's own choices (how
//! much to read at once, which items to load), then the file.

const std = @import("std");
const mutators = @import("mutate.zig");
const sample = @import("sample.zig");

const Allocator = std.mem.Allocator;

pub const seed_size = 8;

pub const Input = struct {
    seed: u64,
    file: []const u8,

    pub fn parse(bytes: []const u8) ?Input {
        if (bytes.len < seed_size) return null;
        return .{ .seed = std.mem.readInt(
            u64,
            bytes[0..seed_size],
            .little,
        ), .file = bytes[seed_size..] };
    }
};

/// A new input: usually a changed file, sometimes a valid one.
pub fn make(arena: Allocator, random: std.Random, kind: sample.Kind) ![]u8 {
    const file = try sample.make(arena, random, kind);
    const valid = random.uintLessThan(u8, 8) == 0;
    return join(
        arena,
        random.int(u64),
        if (valid) file else try mutators.mutate(arena, random, file),
    );
}

/// The input with a changed file, or with another seed.
pub fn mutate(arena: Allocator, random: std.Random, bytes: []const u8) ![]u8 {
    const input = Input.parse(bytes) orelse return join(arena, random.int(u64), bytes);
    if (random.uintLessThan(u8, 8) == 0) return join(arena, random.int(u64), input.file);
    return join(arena, input.seed, try mutators.mutate(arena, random, input.file));
}

fn join(arena: Allocator, seed: u64, file: []const u8) ![]u8 {
    const bytes = try arena.alloc(u8, seed_size + file.len);
    std.mem.writeInt(u64, bytes[0..seed_size], seed, .little);
    @memcpy(bytes[seed_size..], file);
    return bytes;
}

test {
    _ = mutators;
}
