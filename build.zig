//! Builds libtz: a shared library, a static library and the header.
//!
//! Hot kernels are compiled once per CPU level into an object of their own (see
//! libtz/src/kernels.zig); the library picks one at run time. A whole compilation per level
//! means that std inside the kernels is specialised for that level as well.

const std = @import("std");
const builtin = @import("builtin");
const manifest = @import("build.zig.zon");

comptime {
    // Zig's standard library still changes between releases; other versions are not tried.
    if (!std.mem.eql(u8, builtin.zig_version_string, manifest.minimum_zig_version)) {
        @compileError("libtz needs Zig " ++ manifest.minimum_zig_version ++
            " exactly, this is " ++ builtin.zig_version_string);
    }
}

/// Changes with every incompatible change of tz.h; the soname has it.
const abi_version = 1;

const x86 = std.Target.x86;
const aarch64 = std.Target.aarch64;
const Features = std.Target.Cpu.Feature.Set;

/// How to compile the kernels for one CPU level. The names are those of `Level` in
/// libtz/src/cpu.zig, whose `detect` checks the same features at run time.
const Level = struct {
    name: [:0]const u8,
    model: ?*const std.Target.Cpu.Model = null,
    add: Features = .empty,
    remove: Features = .empty,
};

const levels_x86_64 = [_]Level{
    .{ .name = "baseline", .model = &x86.cpu.x86_64 },
    .{
        .name = "v2",
        .model = &x86.cpu.x86_64_v2,
        .add = x86.featureSet(&.{ .crc32, .aes, .pclmul }),
    },
    .{
        .name = "v3",
        .model = &x86.cpu.x86_64_v3,
        .add = x86.featureSet(&.{ .crc32, .aes, .pclmul }),
    },
    .{
        .name = "v3_vaes",
        .model = &x86.cpu.x86_64_v3,
        .add = x86.featureSet(&.{ .crc32, .aes, .pclmul, .vaes, .vpclmulqdq }),
    },
    .{
        .name = "v4",
        .model = &x86.cpu.x86_64_v4,
        .add = x86.featureSet(&.{
            .crc32,        .aes,             .pclmul,     .vaes,
            .vpclmulqdq,   .sha,             .avx512vbmi, .avx512vbmi2,
            .avx512bitalg, .avx512vpopcntdq,
        }),
        // A tuning flag of the model; with it std.simd would suggest 256-bit vectors.
        .remove = x86.featureSet(&.{.prefer_256_bit}),
    },
};

const levels_aarch64 = [_]Level{
    .{ .name = "baseline", .model = &aarch64.cpu.generic }, // includes NEON
    .{
        .name = "armv8_crypto",
        .model = &aarch64.cpu.generic,
        .add = aarch64.featureSet(&.{ .crc, .aes, .sha2 }),
    },
};

const levels_other = [_]Level{.{ .name = "baseline" }};

pub fn build(b: *std.Build) void {
    // Baseline unless asked otherwise: what is built here may run on another machine.
    const target = b.standardTargetOptions(.{ .default_target = .{ .cpu_model = .baseline } });
    const optimize = b.option(
        std.builtin.OptimizeMode,
        "optimize",
        "Optimization of all but the kernels, which are .fast unless this is .debug [safe]",
    ) orelse .safe;
    const strip = b.option(bool, "strip", "Leave out debug info [true unless debug]") orelse
        (optimize != .debug);
    const level_max = b.option(
        []const u8,
        "level-max",
        "Never choose a CPU level above this one (to test lower levels on a newer CPU)",
    );

    const options = b.addOptions();
    options.addOption([:0]const u8, "version", manifest.version);
    options.addOption(u32, "abi_version", abi_version);
    options.addOption(?[]const u8, "level_max", level_max);

    const kernels = addKernels(b, target, if (optimize == .debug) .debug else .fast, strip);
    const root = addRoot(b, target, optimize, strip, options, kernels);
    const libraries = addLibraries(b, target, root);
    addPackages(b, target);
    // The tests of the same sources compile faster in debug, and a failure shows where.
    const tested = addRoot(b, target, .debug, false, options, kernels);
    addTests(b, tested);
    // Slow, so that no test runs them; yet -Doptimize=debug is to build.
    for (addKernels(b, target, .debug, true)) |kernel| {
        _ = kernel.getEmittedBin(); // or no code is generated
        b.top_level_steps.get("test").?.step.dependOn(&kernel.step);
    }
    addInterfaceTests(b, target, tested, libraries);
    const optimized = addRoot(b, target, .safe, false, options, kernels);
    addFuzz(b, target, tested, optimized);
    addFuzzIr(b, target, optimized);
    addCodecBench(b, target, optimized);
}

fn addRoot(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    strip: bool,
    options: *std.Build.Step.Options,
    kernels: []const *std.Build.Step.Compile,
) *std.Build.Module {
    const root = b.createModule(.{
        .root_source_file = b.path("libtz/src/tz.zig"),
        .target = target,
        .optimize = optimize,
        .strip = strip,
        .pic = true,
    });
    root.addOptions("options", options);
    for (kernels) |object| root.addObject(object);
    return root;
}

const Libraries = struct { shared: *std.Build.Step.Compile, static: *std.Build.Step.Compile };

fn addLibraries(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    root: *std.Build.Module,
) Libraries {
    const check = b.step("check", "Compile the library and its tests, and run nothing");
    const header = b.path("libtz/include/tz.h");
    const version = std.SemanticVersion.parse(manifest.version) catch unreachable;

    const shared = b.addLibrary(.{
        .name = "tz",
        .linkage = .dynamic,
        .root_module = root,
        .version = .{ .major = abi_version, .minor = version.minor, .patch = version.patch },
        .use_llvm = true,
    });
    shared.installHeader(header, "tz.h");
    b.installArtifact(shared);
    check.dependOn(&shared.step);

    const static = b.addLibrary(.{
        // On Windows tz.lib is the import library of tz.dll.
        .name = if (target.result.os.tag == .windows) "tz_static" else "tz",
        .linkage = .static,
        .root_module = root,
        .use_llvm = true,
    });
    static.bundle_compiler_rt = true; // so that a C linker needs nothing else
    b.installArtifact(static);
    check.dependOn(&static.step);
    return .{ .shared = shared, .static = static };
}

/// What pkg-config and CMake find the library by. All paths in them are relative.
fn addPackages(b: *std.Build, target: std.Build.ResolvedTarget) void {
    const version = std.SemanticVersion.parse(manifest.version) catch unreachable;
    const is_windows = target.result.os.tag == .windows;
    const values = [_]struct { []const u8, []const u8 }{
        .{ "@VERSION@", manifest.version },
        .{ "@MAJOR@", b.fmt("{d}", .{version.major}) },
        .{ "@MINOR@", b.fmt("{d}", .{version.minor}) },
        .{ "@PATCH@", b.fmt("{d}", .{version.patch}) },
        .{ "@SHARED@", switch (target.result.os.tag) {
            .windows => "bin/tz.dll",
            .macos => "lib/libtz.dylib",
            else => "lib/libtz.so",
        } },
        .{ "@STATIC@", if (is_windows) "lib/tz_static.lib" else "lib/libtz.a" },
    };
    const files = b.addWriteFiles();
    inline for (.{
        .{ "lib/pkgconfig/", "libtz.pc" },
        .{ "lib/cmake/libtz/", "libtz-config.cmake" },
        .{ "lib/cmake/libtz/", "libtz-config-version.cmake" },
    }) |row| {
        const folder, const name = row;
        var text: []const u8 = @embedFile("libtz/package/" ++ name ++ ".in");
        for (values) |value| {
            text = std.mem.replaceOwned(u8, b.allocator, text, value[0], value[1]) catch
                @panic("OOM");
        }
        const install = b.addInstallFile(files.add(name, text), folder ++ name);
        b.getInstallStep().dependOn(&install.step);
    }
}

fn addTests(b: *std.Build, root: *std.Build.Module) void {
    const tests = b.addTest(.{ .root_module = root, .use_llvm = true });
    b.top_level_steps.get("check").?.step.dependOn(&tests.step);
    const run = b.addRunArtifact(tests);
    const quick = b.step("test-quick", "Run the unit tests and those of tz.h");
    quick.dependOn(&run.step);
    b.step("test", "Run all tests, those of the fuzzers too").dependOn(quick);
}

/// Tests of tz.h: against the library's own declarations, and as C callers use it.
fn addInterfaceTests(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    root: *std.Build.Module,
    libraries: Libraries,
) void {
    const step = &b.top_level_steps.get("test-quick").?.step;
    const header = b.addTranslateC(.{
        .root_source_file = b.path("libtz/include/tz.h"),
        .target = target,
        .optimize = .debug,
        .link_libc = true, // for Zig's headers of the target: the system's are of this machine
    });
    const module = b.createModule(.{
        .root_source_file = b.path("libtz/test/c_abi_test.zig"),
        .target = target,
        .optimize = .debug,
    });
    const options = b.addOptions();
    options.addOptionPath("shared_library", libraries.shared.getEmittedBin());
    module.addOptions("options", options);
    module.addImport("tz", root);
    module.addImport("tz_h", header.createModule());
    const tests = b.addTest(.{ .name = "c_abi", .root_module = module, .use_llvm = true });
    b.top_level_steps.get("check").?.step.dependOn(&tests.step);
    step.dependOn(&b.addRunArtifact(tests).step);

    const smoke = b.addExecutable(.{
        .name = "smoke",
        .root_module = b.createModule(.{ .target = target, .optimize = .debug, .link_libc = true }),
        .use_llvm = true,
    });
    smoke.root_module.addCSourceFile(.{
        .file = b.path("libtz/test/smoke.c"),
        .flags = &.{ "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror" },
    });
    smoke.root_module.addIncludePath(b.path("libtz/include"));
    smoke.root_module.linkLibrary(libraries.static);
    const run = b.addRunArtifact(smoke);
    run.expectExitCode(0);
    step.dependOn(&run.step);
}

/// The fuzz driver (fuzz/README.md), and a short run of it as part of the tests.
fn addFuzz(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    tested: *std.Build.Module,
    optimized: *std.Build.Module,
) void {
    if (target.result.os.tag != .linux) return; // guard pages and fault handlers
    const driver = addFuzzDriver(b, target, optimized);
    const install = b.addInstallArtifact(driver, .{});
    b.step("fuzz-build", "Build the fuzz driver, bin/fuzz").dependOn(&install.step);
    const run = b.addRunArtifact(driver);
    run.setCwd(b.path("."));
    run.addPassthruArgs();
    b.step("fuzz", "Run the fuzz driver with the arguments behind --").dependOn(&run.step);

    const smoke = b.step("fuzz-smoke", "Run every fuzz target for a second, and the canary");
    const quick = addFuzzDriver(b, target, tested); // built in a few seconds
    for ([_][]const u8{ "smoke", "canary" }) |command| {
        const short = b.addRunArtifact(quick);
        short.setCwd(b.path("."));
        short.addArgs(&.{ command, "--seed", "1" }); // a test: the long runs are for new seeds
        short.expectExitCode(0);
        short.has_side_effects = true; // counts executions per second, so never the same twice
        smoke.dependOn(&short.step);
    }
    const tests = b.addTest(.{
        .name = "fuzz",
        .root_module = quick.root_module,
        .use_llvm = true,
    });
    smoke.dependOn(&b.addRunArtifact(tests).step);
    b.top_level_steps.get("test").?.step.dependOn(smoke);
}

/// For fuzz/libfuzzer.py: one target and all kernels as LLVM IR, which clang instruments. No
/// objects are made of the same: Zig writes IR last, and generating code first would fold variables
/// that are never alive together into one, with wrong lifetimes. Kernels are checked here, too.
fn addFuzzIr(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    root: *std.Build.Module,
) void {
    const step = b.step("fuzz-ir", "Make LLVM IR of the target that -Dfuzz-target names");
    const name = b.option([]const u8, "fuzz-target", "The target of fuzz-ir [file]") orelse "file";
    const options = b.addOptions();
    options.addOption(bool, "sanitize", true);
    options.addOption([]const u8, "target", name);
    const module = b.createModule(.{
        .root_source_file = b.path("fuzz/libfuzzer.zig"),
        .target = target,
        .optimize = .safe,
        .link_libc = true,
    });
    module.addOptions("options", options);
    module.addImport("tz", root);
    const object = b.addObject(.{ .name = "libfuzzer", .root_module = module, .use_llvm = true });
    for (addKernels(b, target, .safe, false)) |kernel| {
        const file = b.fmt("{s}.ll", .{kernel.name});
        step.dependOn(&b.addInstallFile(kernel.getEmittedLlvmIr(), file).step);
    }
    step.dependOn(&b.addInstallFile(object.getEmittedLlvmIr(), "libfuzzer.ll").step);
}

fn addFuzzDriver(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    root: *std.Build.Module,
) *std.Build.Step.Compile {
    const options = b.addOptions();
    options.addOption(bool, "sanitize", false);
    const module = b.createModule(.{
        .root_source_file = b.path("fuzz/main.zig"),
        .target = target,
        .optimize = root.optimize,
    });
    module.addOptions("options", options);
    module.addImport("tz", root);
    return b.addExecutable(.{ .name = "fuzz", .root_module = module, .use_llvm = true });
}

/// Times the codec at every CPU level: bench/codec/run.py runs it.
fn addCodecBench(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    root: *std.Build.Module,
) void {
    if (target.result.os.tag != .linux) return; // clocks of threads
    const module = b.createModule(.{
        .root_source_file = b.path("bench/codec/bench.zig"),
        .target = target,
        .optimize = root.optimize,
    });
    module.addImport("tz", root);
    const program = b.addExecutable(.{
        .name = "bench-codec",
        .root_module = module,
        .use_llvm = true,
    });
    const install = b.addInstallArtifact(program, .{});
    b.step("bench-codec", "Build the codec's benchmark").dependOn(&install.step);
    b.top_level_steps.get("check").?.step.dependOn(&program.step);
}

/// One object per CPU level, each exporting one hidden symbol: `tz_kernels_<level>`. They are
/// .fast: kernels take slices whose bounds their callers have checked.
fn addKernels(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    strip: bool,
) []const *std.Build.Step.Compile {
    const levels: []const Level = switch (target.result.cpu.arch) {
        .x86_64 => &levels_x86_64,
        .aarch64 => &levels_aarch64,
        else => &levels_other,
    };
    const objects = b.allocator.alloc(*std.Build.Step.Compile, levels.len) catch @panic("OOM");
    for (levels, objects) |level, *object| {
        var query = target.query;
        query.cpu_arch = target.result.cpu.arch;
        if (level.model) |model| {
            query.cpu_model = .{ .explicit = model };
            query.cpu_features_add = level.add;
            query.cpu_features_sub = level.remove;
        }
        const options = b.addOptions();
        options.addOption([:0]const u8, "level", level.name);
        const module = b.createModule(.{
            .root_source_file = b.path("libtz/src/kernels.zig"),
            .target = b.resolveTargetQuery(query),
            .optimize = optimize,
            .strip = strip,
            .pic = true,
        });
        module.addOptions("kernel_options", options);
        object.* = b.addObject(.{
            .name = b.fmt("kernels_{s}", .{level.name}),
            .root_module = module,
            .use_llvm = true, // Zig's own x86 backend does not take all inline assembly used here
        });
    }
    return objects;
}
