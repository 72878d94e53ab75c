// tz_show lists the tensors of a .tz, .safetensors or .tensors file. With a name, it also reads
// that tensor, checked and decoded.
//
//	tz_show FILE [NAME]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := show(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tz_show:", err)
		os.Exit(1)
	}
}

func show(arguments []string) error {
	if len(arguments) != 1 && len(arguments) != 2 {
		return errors.New("usage: tz_show FILE [NAME]")
	}
	reader, err := Open(arguments[0])
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := list(reader); err != nil || len(arguments) == 1 {
		return err
	}
	index, err := reader.Find(arguments[1])
	if err != nil {
		return err
	}
	tensor, err := reader.Tensor(index)
	if err != nil {
		return err
	}
	values, err := reader.Load(index)
	if err != nil {
		return err
	}
	digest := blake3(values)
	fmt.Printf("blake3:%x\n", digest)
	if tensor.ContentDigest != nil && !bytes.Equal(digest[:], tensor.ContentDigest) {
		return errors.New("the values differ from the saved ones: a bug of the writer or the decoder")
	}
	return nil
}

func list(reader *Reader) error {
	count, err := reader.Count()
	if err != nil {
		return err
	}
	for index := 0; index < count; index++ {
		t, err := reader.Tensor(index)
		if err != nil {
			return err
		}
		shape := strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ", ")
		fmt.Printf("%s %s %s %d bytes, %d stored\n", t.Name, t.Dtype, shape, t.DecodedSize, t.StoredSize)
	}
	return nil
}
