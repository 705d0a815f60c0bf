// Package archive keeps log lines on disk: compressed, searchable, bounded by age and size.
//
// Lines come in chunks: some hundred kilobytes of one container's log with its labels, where the
// reading of its file had got to, and a small index of the text. Chunks are appended to segment
// files, and whole segments are removed when they are too old or the archive is too big
// (docs/formats/logs.md has the bytes).
//
// Guarantees: a chunk that was appended survives the end of the process in any way, together with
// the position in its source, so that lines are neither lost nor kept twice; what a power cut has
// left unfinished is cut off when the archive is opened. A damaged chunk costs its own lines only.
// An Archive is safe for concurrent use by one process.
//
// Callers may not assume that lines come ordered by time across chunks. Imported by services/logs.
package archive
