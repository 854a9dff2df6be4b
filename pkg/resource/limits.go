package resource

import (
	"cmp"
	"fmt"
	"strconv"
)

// Limits bound bodies and objects. A zero field takes its default.
type Limits struct {
	// ObjectBytes is the size of the largest body, and of the largest stored spec (default MaxSpecBytes).
	ObjectBytes int
	// Depth is how deep lists and objects of a body may nest, the outermost counted (default and most: MaxDepth).
	Depth int
	// AliasGrowth is how many times its own size a YAML body may grow by aliases (default 10).
	AliasGrowth int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		ObjectBytes: cmp.Or(l.ObjectBytes, MaxSpecBytes), Depth: min(cmp.Or(l.Depth, MaxDepth), MaxDepth),
		AliasGrowth: cmp.Or(l.AliasGrowth, maxAliasGrowth),
	}
}

// CheckSize returns an error that is ErrTooLarge for a spec that is larger than allowed.
func (l Limits) CheckSize(spec []byte) error { return l.withDefaults().fits(len(spec)) }

func (l Limits) fits(n int) error {
	if n > l.ObjectBytes {
		return fmt.Errorf("%w than %s (limits.objectBytes)", ErrTooLarge, Bytes(l.ObjectBytes))
	}
	return nil
}

// DecodeJSON is the function of this name, under these limits.
func (l Limits) DecodeJSON(d *Descriptor, body []byte) (Input, error) {
	l = l.withDefaults()
	return l.decode(d, body, func() (value, error) { return parseJSON(body, l.Depth) })
}

// DecodeYAML is the function of this name, under these limits.
func (l Limits) DecodeYAML(d *Descriptor, body []byte) (Input, error) {
	l = l.withDefaults()
	return l.decode(d, body, func() (value, error) { return parseYAML(body, l) })
}

func (l Limits) decode(d *Descriptor, body []byte, parse func() (value, error)) (Input, error) {
	if err := l.fits(len(body)); err != nil {
		return Input{}, err
	}
	v, err := parse()
	if err != nil {
		return Input{}, err
	}
	return decodeInput(d, v, l)
}

// tooDeep says that a body nests too much.
func tooDeep(depth int) string {
	return fmt.Sprintf("nested more than %d deep (limits.jsonDepth)", depth)
}

// Bytes gives a size in the largest unit in which it is whole: "512 KiB".
func Bytes(n int) string {
	for _, u := range []struct {
		size int
		name string
	}{{1 << 30, " GiB"}, {1 << 20, " MiB"}, {1 << 10, " KiB"}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.Itoa(n/u.size) + u.name
		}
	}
	return strconv.Itoa(n) + " bytes"
}
