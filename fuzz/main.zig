//! The driver of all fuzz targets. It is seeded and reproducible, and has no coverage feedback, as
//! libfuzzer.zig does.
//!
//!   fuzz TARGET [--seed N] [--seconds N] [--executions N]   new inputs, until one fails
//!   fuzz TARGET --seed N --from N --executions 1            one execution of an earlier run
//!   fuzz TARGET --input FILE                                one input
//!   fuzz all --seconds N [--seed N]                         every target for its part of the time
//!   fuzz smoke [--seed N]                                   every corpus, a second of every target
//!   fuzz canary [--seed N]                                  whether a planted bug is found
//!
//! A failure prints the command that repeats it, and leaves the input in fuzz-failure-TARGET.

const std = @import("std");
const builtin = @import("builtin");
const observe = @import("observe.zig");
const targets = @import("targets.zig");
const Target = targets.Target;

const Allocator = std.mem.Allocator;
const Io = std.Io;

const corpus_folder = "fuzz/corpus";
const input_size_max = 1 << 24;
/// Finding the canary takes a few thousand executions.
const canary_executions = 200_000;

const Options = struct {
    seed: u64,
    seconds: ?u64 = null,
    from: u64 = 0,
    executions: ?u64 = null,
    input: ?[]const u8 = null,
};

/// The current execution, for the report of a failure.
var current: struct {
    target: []const u8 = "",
    input: []const u8 = "",
    seed: u64 = 0,
    number: u64 = 0,
    expects_failure: bool = false,
} = .{};

pub const panic = std.debug.FullPanic(onPanic);

pub fn main(init: std.process.Init) !u8 {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const command = if (arguments.len > 1) arguments[1] else "";
    const options = parseOptions(arguments, init.io) catch return usage();
    catchFaults();
    current.seed = options.seed;
    std.debug.print("fuzz {s} --seed {d}\n", .{ command, options.seed });
    if (std.mem.eql(u8, command, "smoke")) {
        for (targets.all) |target| {
            try replayCorpus(init.io, target);
            try loop(init.io, target, .{ .seed = options.seed, .seconds = 1 });
        }
    } else if (std.mem.eql(u8, command, "canary")) {
        current.expects_failure = true;
        const limited: Options = .{ .seed = options.seed, .executions = canary_executions };
        try loop(init.io, targets.canary, limited);
        std.debug.print("the planted bug was not found: the fuzzers find nothing\n", .{});
        return 1;
    } else if (std.mem.eql(u8, command, "all")) {
        var part = options;
        part.seconds = (options.seconds orelse return usage()) / targets.all.len;
        for (targets.all) |target| try loop(init.io, target, part);
    } else {
        const target = targets.find(command) orelse return usage();
        if (options.input) |path| {
            try runFile(init.io, target, path);
        } else try loop(init.io, target, options);
    }
    return 0;
}

fn usage() u8 {
    std.debug.print("usage: fuzz TARGET|all|smoke|canary [--seed N] [--seconds N] " ++
        "[--executions N] [--input FILE]; targets:", .{});
    for (targets.all) |target| std.debug.print(" {s}", .{target.name});
    std.debug.print("\n", .{});
    return 2;
}

fn parseOptions(arguments: []const [:0]const u8, io: Io) !Options {
    var seed: u64 = undefined;
    io.random(std.mem.asBytes(&seed));
    var options: Options = .{ .seed = seed };
    var index: usize = 2;
    while (index < arguments.len) : (index += 2) {
        if (index + 1 == arguments.len) return error.Usage;
        const value = arguments[index + 1];
        if (std.mem.eql(u8, arguments[index], "--seed")) {
            options.seed = try std.fmt.parseInt(u64, value, 10);
        } else if (std.mem.eql(u8, arguments[index], "--seconds")) {
            options.seconds = try std.fmt.parseInt(u64, value, 10);
        } else if (std.mem.eql(u8, arguments[index], "--from")) {
            options.from = try std.fmt.parseInt(u64, value, 10);
        } else if (std.mem.eql(u8, arguments[index], "--executions")) {
            options.executions = try std.fmt.parseInt(u64, value, 10);
        } else if (std.mem.eql(u8, arguments[index], "--input")) {
            options.input = value;
        } else return error.Usage;
    }
    return options;
}

/// Execution number n of a seed is always the same, regardless of earlier ones.
fn loop(io: Io, target: Target, options: Options) !void {
    const begin: Io.Timestamp = .now(io, .awake);
    observe.reset();
    var arena_state: std.heap.ArenaAllocator = .init(std.heap.smp_allocator);
    defer arena_state.deinit();
    const corpus = try readCorpus(io, target);
    var done: u64 = 0;
    while (options.executions == null or done < options.executions.?) : (done += 1) {
        if (options.seconds) |seconds| {
            if (begin.untilNow(io, .awake).toSeconds() >= seconds) break;
        }
        const number = options.from + done;
        current.target = target.name;
        current.number = number;
        current.input = "";
        var prng: std.Random.DefaultPrng = .init(options.seed +% number *% 0x9E37_79B9_7F4A_7C15);
        const random = prng.random();
        _ = arena_state.reset(.{ .retain_with_limit = 1 << 24 });
        const arena = arena_state.allocator();
        const changes_corpus = corpus.len != 0 and random.uintLessThan(u8, 4) == 0;
        const input = if (target.make != null and !changes_corpus)
            try target.make.?(arena, random)
        else if (corpus.len != 0)
            try target.mutate(arena, random, corpus[random.uintLessThan(usize, corpus.len)])
        else
            try target.mutate(arena, random, "");
        execute(target, input);
    }
    const seconds = @as(f64, @floatFromInt(begin.untilNow(io, .awake).toMilliseconds())) / 1000;
    std.debug.print("{s}: {d} executions in {d:.1} s\n", .{ target.name, done, seconds });
    observe.print(done);
}

fn execute(target: Target, input: []const u8) void {
    current.target = target.name;
    current.input = input;
    target.run(input) catch |err| fail(@errorName(err));
}

fn runFile(io: Io, target: Target, path: []const u8) !void {
    const gpa = std.heap.smp_allocator;
    const input = try Io.Dir.cwd().readFileAlloc(io, path, gpa, .limited(input_size_max));
    defer gpa.free(input);
    execute(target, input);
}

fn openCorpus(io: Io, target: Target) !?Io.Dir {
    var path_buffer: [100]u8 = undefined;
    const path = try std.fmt.bufPrint(&path_buffer, "{s}/{s}", .{ corpus_folder, target.name });
    return Io.Dir.cwd().openDir(io, path, .{ .iterate = true }) catch |err| switch (err) {
        error.FileNotFound => null,
        else => err,
    };
}

fn replayCorpus(io: Io, target: Target) !void {
    for (try readCorpus(io, target)) |input| execute(target, input);
}

/// Lives as long as the process.
fn readCorpus(io: Io, target: Target) ![]const []const u8 {
    const gpa = std.heap.smp_allocator;
    var inputs: std.ArrayList([]const u8) = .empty;
    const folder = try openCorpus(io, target) orelse return inputs.items;
    defer folder.close(io);
    var names: std.ArrayList([]const u8) = .empty;
    var entries = folder.iterate();
    while (try entries.next(io)) |entry| {
        if (entry.kind == .file) try names.append(gpa, try gpa.dupe(u8, entry.name));
    }
    // In the same order everywhere, so that a seed is reproducible.
    std.mem.sortUnstable([]const u8, names.items, {}, struct {
        fn lessThan(_: void, a: []const u8, b: []const u8) bool {
            return std.mem.order(u8, a, b) == .lt;
        }
    }.lessThan);
    for (names.items) |name| {
        try inputs.append(gpa, try folder.readFileAlloc(io, name, gpa, .limited(input_size_max)));
    }
    return inputs.items;
}

// ---- Failures ----------------------------------------------------------------------------------

fn onPanic(message: []const u8, return_address: ?usize) noreturn {
    if (!current.expects_failure) {
        std.debug.print("panic: {s}\n", .{message});
        const first_address = return_address orelse @returnAddress();
        std.debug.dumpCurrentStackTrace(.{ .first_address = first_address });
    }
    fail("panic");
}

fn catchFaults() void {
    const action: std.posix.Sigaction = .{
        .handler = .{ .handler = onFault },
        .mask = std.posix.sigemptyset(),
        .flags = 0,
    };
    std.posix.sigaction(.SEGV, &action, null);
    std.posix.sigaction(.BUS, &action, null);
}

fn onFault(_: std.posix.SIG) callconv(.c) void {
    // A second fault during the report must not call this again.
    const default: std.posix.Sigaction = .{
        .handler = .{ .handler = std.posix.SIG.DFL },
        .mask = std.posix.sigemptyset(),
        .flags = 0,
    };
    std.posix.sigaction(.SEGV, &default, null);
    std.posix.sigaction(.BUS, &default, null);
    fail("memory fault");
}

fn fail(what: []const u8) noreturn {
    if (current.expects_failure) {
        std.debug.print("the planted bug was found by execution {d}\n", .{current.number});
        std.process.exit(0);
    }
    std.debug.print("{s}: {s} in execution {d} of seed {d}\n", .{
        current.target,
        what,
        current.number,
        current.seed,
    });
    saveInput();
    std.process.exit(1);
}

/// Uses system calls only, since the process may be damaged.
fn saveInput() void {
    var path_buffer: [100]u8 = undefined;
    const pattern = "fuzz-failure-{s}";
    const path = std.fmt.bufPrintSentinel(&path_buffer, pattern, .{current.target}, 0) catch return;
    const linux = std.os.linux;
    const file = linux.open(path, .{ .ACCMODE = .WRONLY, .CREAT = true, .TRUNC = true }, 0o644);
    if (std.posix.errno(file) != .SUCCESS) return;
    var rest = current.input;
    while (rest.len > 0) {
        const written = linux.write(@intCast(file), rest.ptr, rest.len);
        if (std.posix.errno(written) != .SUCCESS) return;
        rest = rest[written..];
    }
    std.debug.print("again with: fuzz {s} --input {s}\n", .{ current.target, path });
}

test {
    _ = @import("input.zig");
}
