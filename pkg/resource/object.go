package resource

import (
	"cmp"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
)

// Kind names a kind of resource, as the public "type" key does: "Mesh", "TrafficRoute".
type Kind string

// Key identifies one resource in a log.
type Key struct {
	Kind Kind
	// Scope is the mesh of a mesh-scoped kind, and empty for a global kind.
	Scope string
	Name  string
}

// Compare orders keys by kind, then scope, then name, each in byte order.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Scope, o.Scope), cmp.Compare(k.Name, o.Name))
}

// String is for logs and errors: "TrafficRoute default/web", "Zone zone-1".
func (k Key) String() string {
	if k.Scope == "" {
		return fmt.Sprintf("%s %s", k.Kind, k.Name)
	}
	return fmt.Sprintf("%s %s/%s", k.Kind, k.Scope, k.Name)
}

// Revision numbers the batches of one log, from 1, without gaps. It means nothing in another log.
type Revision uint64

// String is the decimal form that headers and JSON carry.
func (r Revision) String() string { return strconv.FormatUint(uint64(r), 10) }

// ParseRevision is the inverse of Revision.String.
func ParseRevision(s string) (Revision, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("revision %q is not a decimal number", s)
	}
	return Revision(n), nil
}

// Origin says where an object of a store was born: in this store, or at the peer that sent it. It never
// changes in an object's life, and its tombstone keeps it.
type Origin string

const (
	// Local is the origin of what was born in this store.
	Local Origin = ""
	// Global is the origin, in a zone's store, of what came from the global control plane.
	Global Origin = "global"
)

// Object is one version of one resource as a store holds it. It is immutable and may be shared.
type Object struct {
	Key    Key
	Origin Origin
	// Revision of the batch that last wrote the object, in the log that holds it.
	Revision Revision
	// SpecRevision is the revision at which Spec last took other bytes: a PUT that changes nothing moves
	// Revision only, and dirties no plan.
	SpecRevision Revision
	// Created and Modified are UTC. In a zone they are the global control plane's.
	Created, Modified time.Time
	// Spec is the deterministic protobuf encoding of the kind's message, and nothing else.
	Spec []byte

	decoded atomic.Pointer[proto.Message]
	json    atomic.Pointer[[]byte]
}

// Decode returns the object's spec as M, decoded at most once for each version and shared by all readers:
// it must not be changed. M is the message of the object's kind; another one gives garbage or an error.
func Decode[M any, PM interface {
	*M
	proto.Message
}](o *Object) (PM, error) {
	if p := o.decoded.Load(); p != nil {
		if m, ok := (*p).(PM); ok {
			return m, nil
		}
		return nil, fmt.Errorf("%s: decoded as %T before", o.Key, *p)
	}
	m := PM(new(M))
	if err := proto.Unmarshal(o.Spec, m); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Key, err)
	}
	var pm proto.Message = m
	o.decoded.CompareAndSwap(nil, &pm)
	return m, nil
}

// Message is Decode for callers that know the kind by its descriptor only.
func (o *Object) Message(d *Descriptor) (proto.Message, error) {
	if p := o.decoded.Load(); p != nil {
		return *p, nil
	}
	m := d.New()
	if err := proto.Unmarshal(o.Spec, m); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Key, err)
	}
	o.decoded.CompareAndSwap(nil, &m)
	return m, nil
}

// JSON is EncodeJSON, done at most once for each version and shared by all readers: it must not be changed. The
// message that it is made from is kept only where Decode or Message did so before.
func (o *Object) JSON(d *Descriptor) ([]byte, error) {
	if p := o.json.Load(); p != nil {
		return *p, nil
	}
	m := d.New()
	if p := o.decoded.Load(); p != nil {
		m = *p
	} else if err := proto.Unmarshal(o.Spec, m); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Key, err)
	}
	b, err := objectJSON(d, o, m, nil)
	if err != nil {
		return nil, err
	}
	o.json.CompareAndSwap(nil, &b)
	return b, nil
}

// Encode gives the stored form of a spec: deterministic, so that equal specs have equal bytes.
func Encode(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
