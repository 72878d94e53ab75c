//! Exports: checking whole files.

const c = @import("types.zig");
const Header = @import("../header.zig").Header;
const Range = @import("../chunk_entries.zig").Range;
const status = @import("../status.zig");
const Status = status.Status;
const support = @import("support.zig");
const Report = support.Report;
const gpa = support.gpa;
const Verifier = @import("../verifier.zig").Verifier;

export fn tz_verifier_new(header: ?*const Header, out: ?**Verifier) Status {
    return support.result(newVerifier(header, out));
}

fn newVerifier(header: ?*const Header, out: ?**Verifier) status.Error!void {
    const self = header orelse return error.Argument;
    const target = out orelse return error.Argument;
    const verifier = try gpa.create(Verifier);
    errdefer gpa.destroy(verifier);
    verifier.* = try .init(gpa, self);
    target.* = verifier;
}

export fn tz_verifier_free(verifier: ?*Verifier) void {
    const self = verifier orelse return;
    self.deinit();
    gpa.destroy(self);
}

export fn tz_verifier_next(verifier: ?*Verifier, out: ?*Range, diagnostic: ?*c.Diagnostic) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    const self = verifier orelse return .argument;
    const target = out orelse return .argument;
    target.* = self.next(&report.diagnostic) catch |err| return status.fromError(err);
    return .ok;
}

export fn tz_verifier_put(
    verifier: ?*Verifier,
    data: ?[*]const u8,
    size: usize,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    const self = verifier orelse return .argument;
    const bytes = support.slice(u8, data, size) catch return .argument;
    return support.result(self.put(bytes, &report.diagnostic));
}

export fn tz_verifier_finish(verifier: ?*Verifier, diagnostic: ?*c.Diagnostic) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    const self = verifier orelse return .argument;
    return support.result(self.finish(&report.diagnostic));
}
