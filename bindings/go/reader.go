package main

// Reads files from disk, in every format that libtz recognises. libtz does no I/O, so the reads are
// done here, between its calls. Set the folders of tz.h and libtz.a with CGO_CFLAGS=-I... and
// CGO_LDFLAGS=-L...

// #cgo LDFLAGS: -ltz
// #include <stdlib.h>
// #include "tz.h"
import "C"

import (
	"fmt"
	"os"
	"unsafe"
)

// Reader owns the header; Close frees it.
type Reader struct {
	file   *os.File
	header *C.tz_header
}

// Tensor describes a tensor. It holds no memory of the library.
type Tensor struct {
	Name          string
	Dtype         string
	Shape         []uint64
	DecodedSize   uint64
	StoredSize    uint64
	ContentDigest []byte // nil except in tz files
}

// check returns an error for a status other than TZ_OK, with the rule that the file breaks.
func check(status C.tz_status, at *C.tz_diagnostic) error {
	if status == C.TZ_OK {
		return nil
	}
	name, what := C.GoString(C.tz_status_name(status)), C.GoString(C.tz_status_text(status))
	if at == nil || at.rule == 0 {
		return fmt.Errorf("%s (%s)", what, name)
	}
	return fmt.Errorf("%s (%s): byte %d breaks TZ1-%d", what, name, at.offset, at.rule)
}

func newDiagnostic() C.tz_diagnostic {
	var at C.tz_diagnostic
	at.struct_size = C.uint32_t(unsafe.Sizeof(at))
	return at
}

// pointer returns a pointer to the first byte, or nil.
func pointer(data []byte) unsafe.Pointer {
	if len(data) == 0 {
		return nil
	}
	return unsafe.Pointer(&data[0])
}

func readAt(file *os.File, offset, size C.uint64_t) ([]byte, error) {
	data := make([]byte, size)
	_, err := file.ReadAt(data, int64(offset))
	return data, err
}

// Open reads as many first bytes as the library needs, in at most three reads.
func Open(path string) (*Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	reader := &Reader{file: file}
	if err := reader.open(); err != nil {
		reader.Close()
		return nil, err
	}
	return reader, nil
}

func (r *Reader) open() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	size := C.uint64_t(info.Size())
	needed := size
	if needed > 1<<20 {
		needed = 1 << 20
	}
	for {
		front, err := readAt(r.file, 0, needed)
		if err != nil {
			return err
		}
		at := newDiagnostic()
		length := C.size_t(len(front))
		status := C.tz_header_open(pointer(front), length, size, nil, &r.header, &needed, &at)
		if status != C.TZ_NEED_MORE {
			return check(status, &at)
		}
	}
}

// Close frees the header and closes the file.
func (r *Reader) Close() {
	C.tz_header_free(r.header) // accepts NULL
	r.file.Close()
}

// Count is the number of tensors.
func (r *Reader) Count() (int, error) {
	var info C.tz_header_info
	info.struct_size = C.uint32_t(unsafe.Sizeof(info))
	err := check(C.tz_header_get(r.header, &info), nil)
	return int(info.tensor_count), err
}

// Find returns the index of the tensor with a name.
func (r *Reader) Find(name string) (int, error) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var index C.uint32_t
	err := check(C.tz_header_find(r.header, text, C.size_t(len(name)), &index), nil)
	return int(index), err
}

// Tensor describes the tensor at an index, in the order of names.
func (r *Reader) Tensor(index int) (*Tensor, error) {
	var tensor C.tz_tensor
	tensor.struct_size = C.uint32_t(unsafe.Sizeof(tensor))
	if err := check(C.tz_header_tensor(r.header, C.uint32_t(index), &tensor), nil); err != nil {
		return nil, err
	}
	made := &Tensor{
		Name:        C.GoStringN(tensor.name, C.int(tensor.name_size)),
		Dtype:       "?",
		Shape:       make([]uint64, tensor.rank),
		DecodedSize: uint64(tensor.decoded_size),
		StoredSize:  uint64(tensor.stored_size),
	}
	for axis, units := range unsafe.Slice(tensor.shape, tensor.rank) {
		made.Shape[axis] = uint64(units)
	}
	if tensor.content_digest != nil {
		made.ContentDigest = C.GoBytes(unsafe.Pointer(tensor.content_digest), 32)
	}
	var dtype C.tz_dtype_info
	dtype.struct_size = C.uint32_t(unsafe.Sizeof(dtype))
	if C.tz_dtype(tensor.dtype, &dtype) == C.TZ_OK {
		made.Dtype = C.GoString(dtype.name)
	}
	return made, nil
}

// fetchEntries reads the tensor's chunk entries, one range, unless the library has them already.
func (r *Reader) fetchEntries(tensor C.uint32_t) error {
	var place C.tz_range
	var count C.size_t
	err := check(C.tz_header_entry_ranges(r.header, &tensor, 1, 0, &place, 1, &count), nil)
	if err != nil || count == 0 {
		return err
	}
	entries, err := readAt(r.file, place.offset, place.size)
	if err != nil {
		return err
	}
	at := newDiagnostic()
	size := C.size_t(len(entries))
	status := C.tz_header_put_entries(r.header, place.offset, pointer(entries), size, &at)
	return check(status, &at)
}
