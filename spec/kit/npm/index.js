// The conformance vectors of the tz format. vectors/README.md explains the fields.
//
//     import { loadAll } from "libtz-vectors";
//     for (const vector of loadAll()) compare(vector, whatMyReaderSays(vector.data));

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

// In the package the vectors lie beside this file, in the repository elsewhere.
export const folder = [join(here, "vectors"), join(here, "..", "..", "vectors")].find(existsSync);

const KEYS = new Set([
  "expect", "rule", "comment", "operation", "pin", "requires", "level",
  "file-digest", "content-digest", "released-sha256",
]);

const LINE = /^([0-9a-f]{2}(?: [0-9a-f]{2})*)(?: (\*|\+\+) ([1-9][0-9]*))?$/;

/** A vector from the text of a .hex file; null if it has a key that this version does not know. */
export function parse(name, text) {
  const end = text.indexOf("\n\n");
  if (end < 0) throw new Error(`${name}: no empty line after the header`);
  const header = {};
  for (const line of text.slice(0, end).split("\n")) {
    const colon = line.indexOf(": ");
    const key = line.slice(0, colon);
    if (colon < 0 || key in header) throw new Error(`${name}: bad header line ${line}`);
    if (!KEYS.has(key)) return null;
    header[key] = line.slice(colon + 2);
  }
  const pieces = text.slice(end + 2).split("\n").map((line) => bytesOf(name, line));
  return {
    name,
    data: Buffer.concat(pieces),
    expect: header.expect,
    rules: header.rule.split(", "),
    comment: header.comment,
    operation: header.operation ?? "verify",
    pin: header.pin ?? null,
    requires: header.requires ?? null,
    level: header.level ?? "load",
    fileDigest: header["file-digest"] ?? null,
    contentDigest: header["content-digest"] ?? null,
    released: header["released-sha256"] ?? null,
  };
}

function bytesOf(name, line) {
  const code = line.replace(/#.*/, "").trim();
  if (code === "") return Buffer.alloc(0);
  const match = LINE.exec(code);
  if (match === null) throw new Error(`${name}: this line is no hex: ${line}`);
  const unit = Buffer.from(match[1].replaceAll(" ", ""), "hex");
  const count = Number(match[3] ?? 1);
  if (match[2] !== "++") return Buffer.concat(Array(count).fill(unit));
  const text = unit.toString("latin1"); // the digits at the end count up
  const digits = /[0-9]*$/.exec(text)[0];
  const head = text.slice(0, text.length - digits.length);
  const numbers = Array.from({ length: count }, (_, i) =>
    String(Number(digits) + i).padStart(digits.length, "0"));
  return Buffer.from(numbers.map((number) => head + number).join(""), "latin1");
}

/** All vectors of readers, sorted by name. */
export function loadAll() {
  const vectors = [];
  for (const group of ["invalid", "valid"]) {
    const path = join(folder, "v1", group);
    for (const file of readdirSync(path).filter((file) => file.endsWith(".hex")).sort()) {
      const name = `${group}/${file.slice(0, -4)}`;
      const vector = parse(name, readFileSync(join(path, file), "utf8"));
      if (vector !== null) vectors.push(vector);
    }
  }
  return vectors;
}

/**
 * What a reader says about a valid file, as JSON text: its integers have up to 8192 bits, which
 * JSON.parse rounds. Null for files too large to write that down.
 */
export function description(vector) {
  const path = join(folder, "v1", `${vector.name}.json`);
  return existsSync(path) ? readFileSync(path, "utf8") : null;
}

/** The vectors of writers. */
export function loadWriters() {
  return JSON.parse(readFileSync(join(folder, "writers", "v1.json"), "utf8")).tests;
}
