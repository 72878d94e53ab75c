//! An invariant that is broken on purpose: a reader that checks every checksum, but then trusts the
//! contents. It panics only on a file with right checksums and a wrong tensor table, which only a
//! resealed change produces. A driver that does not find this within seconds finds nothing.

const std = @import("std");
const inputs = @import("input.zig");
const tz = @import("tz");

pub fn make(arena: std.mem.Allocator, random: std.Random) ![]u8 {
    return inputs.make(arena, random, .header_only);
}

pub const mutate = inputs.mutate;

pub fn run(bytes: []const u8) !void {
    const input = inputs.Input.parse(bytes) orelse return;
    const file = input.file;
    if (file.len < 384 or !std.mem.startsWith(u8, file, &tz.format.magic)) return;
    if (tz.checksum.crc32c(0, file[0..124]) != get(u32, file, 124)) return;
    const section_count = get(u32, file, 12);
    if (section_count < 4 or section_count > 6) return;
    const directory = file[128..][0 .. 64 * section_count];
    if (!std.mem.eql(u8, &tz.checksum.blake3(directory), file[72..104])) return;
    for (0..3) |number| {
        const content = section(file, directory, number) orelse return;
        const digest = directory[number * 64 + 32 ..][0..32];
        if (!std.mem.eql(u8, &tz.checksum.blake3(content), digest)) return;
    }
    const records = section(file, directory, 0).?;
    const names = section(file, directory, 2).?;
    for (0..records.len / 120) |index| {
        const record = records[index * 120 ..][0..120];
        // The bug: TZ1-22, that the name is inside the names section, is not checked.
        const name = names[get(u32, record, 0)..][0..get(u16, record, 4)];
        std.mem.doNotOptimizeAway(name);
    }
}

fn section(file: []const u8, directory: []const u8, number: usize) ?[]const u8 {
    const offset = get(u64, directory, number * 64 + 8);
    const size = get(u64, directory, number * 64 + 16);
    if (offset > file.len or size > file.len - offset) return null;
    return file[@intCast(offset)..][0..@intCast(size)];
}

fn get(comptime T: type, file: []const u8, offset: usize) T {
    return std.mem.readInt(T, file[offset..][0..@sizeOf(T)], .little);
}
