//! Compares the header with the library: layouts, constants and exported symbols must be equal.
//! `tz_h` is tz.h translated by Zig. c_calls_test.zig tests calls through the header.

const std = @import("std");
const builtin = @import("builtin");
const c = @import("tz_h");
const options = @import("options");
const tz = @import("tz");

const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;
const expectEqualStrings = std.testing.expectEqualStrings;

test {
    _ = @import("c_calls_test.zig");
    _ = @import("c_coreweave_test.zig");
}

/// The names that tz.h declares and that begin with `prefix`.
fn declared(comptime prefix: []const u8) []const [:0]const u8 {
    return comptime blk: {
        @setEvalBranchQuota(1_000_000);
        var names: []const [:0]const u8 = &.{};
        for (@typeInfo(c).@"struct".decl_names) |name| {
            if (std.mem.startsWith(u8, name, prefix)) names = names ++ .{name};
        }
        break :blk names;
    };
}

fn contains(names: []const [:0]const u8, name: []const u8) bool {
    for (names) |other| if (std.mem.eql(u8, other, name)) return true;
    return false;
}

test "every struct of the header has the library's layout" {
    var count: usize = 0;
    inline for (comptime declared("tz_")) |name| {
        const Declared = @field(c, name);
        if (@TypeOf(Declared) == type and @typeInfo(Declared) == .@"struct") {
            errdefer std.debug.print("{s}\n", .{name});
            const Ours = comptime for (tz.c_types.structs) |row| {
                if (std.mem.eql(u8, row[0], name)) break row[1];
            } else @compileError(name ++ " is missing in c_api/types.zig");
            try expectEqual(@sizeOf(Declared), @sizeOf(Ours));
            try expectEqual(@sizeOf(Declared), c.tz_struct_size(name));
            try expect(@alignOf(Declared) >= @alignOf(Ours));
            try expectSameFields(Declared, Ours);
            count += 1;
        }
    }
    try expectEqual(tz.c_types.structs.len, count);
    try expectEqual(0, c.tz_struct_size("tz_unknown"));
    try expectEqual(0, c.tz_struct_size(null));
}

fn expectSameFields(comptime Declared: type, comptime Ours: type) !void {
    const names = @typeInfo(Declared).@"struct".field_names;
    if (comptime std.mem.eql(u8, names[0], "opaque")) return;
    try expectEqual(names.len, @typeInfo(Ours).@"struct".field_names.len);
    inline for (names) |name| {
        errdefer std.debug.print("{s}\n", .{name});
        try expectEqual(@offsetOf(Declared, name), @offsetOf(Ours, name));
        try expectEqual(@sizeOf(@FieldType(Declared, name)), @sizeOf(@FieldType(Ours, name)));
    }
}

/// Requires the same names and numbers on both sides. The header's name is `prefix` followed by the
/// name in upper case.
fn expectEnum(comptime prefix: []const u8, comptime Enum: type) !void {
    const info = @typeInfo(Enum).@"enum";
    const names = comptime declared(prefix);
    try expectEqual(info.field_names.len, names.len);
    inline for (info.field_names) |name| {
        errdefer std.debug.print("{s}{s}\n", .{ prefix, name });
        const number = @backingInt(@field(Enum, name));
        try expectEqual(@as(i64, number), @as(i64, @field(c, prefix ++ upperCase(name))));
    }
}

/// The same for a word of flags.
fn expectFlags(comptime prefix: []const u8, comptime Flags: type) !void {
    const names = @typeInfo(Flags).@"struct".field_names;
    try expectEqual(names.len - 1, declared(prefix).len); // one field is for unused bits
    inline for (names) |name| {
        if (comptime std.mem.eql(u8, name, "unused")) continue;
        errdefer std.debug.print("{s}{s}\n", .{ prefix, name });
        var flags: Flags = .{};
        @field(flags, name) = true;
        const word: u32 = @bitCast(flags);
        try expectEqual(word, @as(u32, @field(c, prefix ++ upperCase(name))));
    }
}

fn upperCase(comptime name: []const u8) []const u8 {
    var upper: [name.len]u8 = undefined;
    const result = std.ascii.upperString(&upper, name)[0..name.len].*;
    return &result;
}

test "every constant of the header has the library's value" {
    try expectEnum("TZ_FORMAT_", tz.header.Format);
    try expectEnum("TZ_NODE_", tz.structure.Kind);
    try expectEnum("TZ_KEY_", tz.structure.KeyKind);
    try expectEnum("TZ_VERIFY_", tz.process.Verify);
    try expectEnum("TZ_COMPRESS_", tz.encode.Compress);
    try expectFlags("TZ_TENSOR_", tz.c_types.TensorFlags);
    try expectFlags("TZ_RECORD_", tz.c_types.RecordFlags);
    try expectFlags("TZ_ITEM_", tz.c_types.ItemFlags);
    try expectFlags("TZ_PLAN_", tz.c_types.PlanFlags);
    try expectEqual(tz.format.none, @as(u32, @bitCast(c.TZ_NONE32)));
    try expectEqual(tz.plan_types.to_staging, @as(u32, @bitCast(c.TZ_TO_STAGING)));
    try expectEqual(tz.plan_types.to_nowhere, @as(u32, @bitCast(c.TZ_TO_NOWHERE)));
    try expectEqual(c.tz_abi_version(), @as(u32, c.TZ_ABI_VERSION));
}

test "the version of the header is the library's" {
    const text = std.mem.span(c.tz_version());
    try expectEqualStrings(text, c.TZ_VERSION_STRING);
    const version: std.SemanticVersion = try .parse(text);
    try expectEqual(version.major, c.TZ_VERSION_MAJOR);
    try expectEqual(version.minor, c.TZ_VERSION_MINOR);
    try expectEqual(version.patch, c.TZ_VERSION_PATCH);
    try expectEqual(1_000 * version.minor + version.patch, c.TZ_VERSION % 1_000_000);
}

test "every status has its number and its word" {
    const Status = tz.status.Status;
    try expectEqual(@backingInt(Status.ok), c.TZ_OK);
    try expectEqual(@backingInt(Status.need_more), c.TZ_NEED_MORE);
    try expectEqual(@typeInfo(Status).@"enum".field_names.len, declared("TZ_E_").len + 2);
    inline for (@typeInfo(Status).@"enum".field_names) |field| {
        const status = @field(Status, field);
        if (status == .ok or status == .need_more) continue;
        errdefer std.debug.print("{s}\n", .{field});
        const code = @field(c, "TZ_E_" ++ upperCase(field));
        try expectEqual(@backingInt(status), code);
        // Fixed ranges: 10 to 19 for the caller and the machine, the others for the data.
        try expectEqual(isCallError(status), code >= 10 and code < 20);
        const word = std.mem.span(c.tz_status_name(code));
        try expectEqualStrings(if (status == .not_tz) "not-tz" else field, word);
    }
    try expectEqualStrings("ok", std.mem.span(c.tz_status_name(c.TZ_OK)));
    const sentence = std.mem.span(c.tz_status_text(c.TZ_E_TRUNCATED));
    try expectEqualStrings("the file ends too early", sentence);
    try expectEqualStrings("unknown status", std.mem.span(c.tz_status_text(16)));
    for ([_]i32{ -1, 2, 9, 16, 40, 52, std.math.maxInt(i32), std.math.minInt(i32) }) |code| {
        try expectEqualStrings("unknown", std.mem.span(c.tz_status_name(code)));
    }
}

fn isCallError(status: tz.status.Status) bool {
    inline for (@typeInfo(tz.status.CallError).error_set.error_names.?) |name| {
        if (tz.status.fromError(@field(tz.status.CallError, name)) == status) return true;
    }
    return false;
}

// Every constant belongs to a group that a test above compares.
test "no constant is left out" {
    const groups = .{
        "TZ_E_",        "TZ_FORMAT_", "TZ_NODE_",   "TZ_KEY_",  "TZ_VERIFY_",
        "TZ_COMPRESS_", "TZ_TENSOR_", "TZ_RECORD_", "TZ_ITEM_", "TZ_PLAN_",
    };
    const single = [_][:0]const u8{
        "TZ_OK",             "TZ_NEED_MORE",     "TZ_NONE32",        "TZ_TO_STAGING",
        "TZ_TO_NOWHERE",     "TZ_H",             "TZ_ABI_VERSION",
        // Compared in the test of the version.
          "TZ_VERSION",
        "TZ_VERSION_STRING", "TZ_VERSION_MAJOR", "TZ_VERSION_MINOR", "TZ_VERSION_PATCH",
    };
    inline for (comptime declared("TZ_")) |name| {
        const grouped = inline for (groups) |prefix| {
            if (comptime std.mem.startsWith(u8, name, prefix)) break true;
        } else false;
        if (!grouped and !contains(&single, name)) {
            std.debug.print("{s} is compared with nothing\n", .{name});
            return error.TestUnexpectedResult;
        }
    }
}

/// The functions that tz.h declares.
fn functions() []const [:0]const u8 {
    return comptime blk: {
        var names: []const [:0]const u8 = &.{};
        for (declared("tz_")) |name| {
            if (@typeInfo(@TypeOf(@field(c, name))) == .@"fn") names = names ++ .{name};
        }
        break :blk names;
    };
}

test "the shared library exports the header's functions and nothing else" {
    if (builtin.object_format != .elf) return error.SkipZigTest;
    const gpa = std.testing.allocator;
    const io = std.testing.io;
    const library = try std.Io.Dir.cwd().readFileAlloc(
        io,
        options.shared_library,
        gpa,
        .limited(1 << 26),
    );
    defer gpa.free(library);
    const exported = try dynamicSymbols(gpa, library);
    defer gpa.free(exported);
    inline for (comptime functions()) |name| {
        if (!contains(exported, name)) {
            std.debug.print("{s} is not exported\n", .{name});
            return error.TestUnexpectedResult;
        }
    }
    for (exported) |name| if (!contains(comptime functions(), name)) {
        std.debug.print("{s} is exported and not in tz.h\n", .{name});
        return error.TestUnexpectedResult;
    };
}

/// The names of the symbols that a shared library defines. The caller frees the list; names point
/// into `file`.
fn dynamicSymbols(gpa: std.mem.Allocator, file: []const u8) ![]const [:0]const u8 {
    const elf = std.elf;
    var names: std.ArrayList([:0]const u8) = .empty;
    errdefer names.deinit(gpa);
    const header = std.mem.bytesToValue(elf.Elf64_Ehdr, file[0..@sizeOf(elf.Elf64_Ehdr)]);
    for (0..header.e_shnum) |number| {
        const section = sectionAt(header, file, number);
        if (section.sh_type != elf.SHT_DYNSYM) continue;
        const strings = sectionAt(header, file, section.sh_link);
        var at = section.sh_offset;
        while (at < section.sh_offset + section.sh_size) : (at += section.sh_entsize) {
            const symbol = std.mem.bytesToValue(
                elf.Elf64_Sym,
                file[@intCast(at)..][0..@sizeOf(elf.Elf64_Sym)],
            );
            if (symbol.st_shndx == elf.SHN_UNDEF) continue;
            const name: [*:0]const u8 = @ptrCast(
                file[@intCast(strings.sh_offset + symbol.st_name)..],
            );
            try names.append(gpa, std.mem.span(name));
        }
    }
    return names.toOwnedSlice(gpa);
}

fn sectionAt(header: std.elf.Elf64_Ehdr, file: []const u8, number: usize) std.elf.Elf64_Shdr {
    const at = header.e_shoff + number * header.e_shentsize;
    return std.mem.bytesToValue(
        std.elf.Elf64_Shdr,
        file[@intCast(at)..][0..@sizeOf(std.elf.Elf64_Shdr)],
    );
}
