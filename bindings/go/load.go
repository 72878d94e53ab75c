package main

// #include <stdlib.h>
// #include "tz.h"
import "C"

import (
	"errors"
	"unsafe"
)

// Load returns the decoded bytes of a tensor, after checking each chunk's BLAKE3.
func (r *Reader) Load(index int) ([]byte, error) {
	tensor := C.uint32_t(index)
	if err := r.fetchEntries(tensor); err != nil {
		return nil, err
	}
	item := C.tz_read_item{tensor: tensor}
	item.struct_size = C.uint32_t(unsafe.Sizeof(item))
	var plan *C.tz_plan
	at := newDiagnostic()
	if err := check(C.tz_plan_new(r.header, &item, 1, nil, &plan, &at), &at); err != nil {
		return nil, err
	}
	defer C.tz_plan_free(plan) // before the header, which the plan needs
	var info C.tz_plan_info
	info.struct_size = C.uint32_t(unsafe.Sizeof(info))
	if err := check(C.tz_plan_get(plan, &info), nil); err != nil {
		return nil, err
	}
	if info.allocation_count == 0 {
		return nil, nil // the tensor is empty
	}

	// C memory, since cgo forbids to pass C a list of Go pointers. One item has one allocation.
	size := *C.tz_plan_allocations(plan)
	values := C.malloc(C.size_t(size))
	staging := C.malloc(C.size_t(info.staging_size_max) + 1) // for compressed chunks
	defer C.free(values)
	defer C.free(staging)
	if values == nil || staging == nil {
		return nil, errors.New("out of memory")
	}
	for number, request := range unsafe.Slice(C.tz_plan_requests(plan), info.request_count) {
		if err := r.receive(plan, request, values, staging); err != nil {
			return nil, err
		}
		var next C.uint64_t
		status := C.tz_plan_process(plan, C.uint32_t(number), request.size, staging, &values,
			C.TZ_VERIFY_DIGEST, &next, &at)
		if err := check(status, &at); err != nil {
			return nil, err
		}
	}
	loaded := make([]byte, size)
	copy(loaded, unsafe.Slice((*byte)(values), size))
	return loaded, nil
}

// receive reads a request's bytes into its segments.
func (r *Reader) receive(
	plan *C.tz_plan, request C.tz_request, values, staging unsafe.Pointer,
) error {
	offset := int64(request.offset)
	for number := uint64(0); number < uint64(request.segment_count); number++ {
		first := unsafe.Pointer(C.tz_plan_segments(plan))
		place := uintptr(uint64(request.segment_begin)+number) * unsafe.Sizeof(C.tz_segment{})
		segment := (*C.tz_segment)(unsafe.Add(first, place))
		memory := values
		if int32(segment.allocation) == C.TZ_TO_STAGING {
			memory = staging
		}
		if int32(segment.allocation) != C.TZ_TO_NOWHERE {
			target := (*byte)(unsafe.Add(memory, uintptr(segment.position)))
			if _, err := r.file.ReadAt(unsafe.Slice(target, segment.size), offset); err != nil {
				return err
			}
		}
		offset += int64(segment.size)
	}
	return nil
}

func blake3(data []byte) (digest [32]byte) {
	C.tz_blake3(pointer(data), C.size_t(len(data)), (*C.uint8_t)(&digest[0]))
	return digest
}
