package resource

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// maxNote is the length of the longest note of a Revocation, in bytes.
const maxNote = 1024

func validateRevocation(_ Key, m proto.Message) Violations {
	r, ok := m.(*systemv1.Revocation)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	if n := len(r.GetNote()); n > maxNote {
		v.Add("note", fmt.Sprintf("is longer than %d bytes", maxNote))
	}
	return v
}
