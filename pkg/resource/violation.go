package resource

import (
	"strings"
)

// maxViolations is how many violations are listed: a body of nothing but errors must not become an answer
// many times its size.
const maxViolations = 256

// Violation is one thing that is wrong with a body.
type Violation struct {
	// Field is a path in the grammar of spec 1.2: dots, [i], ["key"].
	Field   string
	Message string
}

// Violations is all that is wrong with a body. As an error it lists every one.
type Violations []Violation

// Add appends one violation. Of very many, those after the first few hundred are left out, which the last
// one says.
func (v *Violations) Add(field, message string) {
	switch {
	case len(*v) < maxViolations:
		*v = append(*v, Violation{Field: field, Message: message})
	case len(*v) == maxViolations:
		*v = append(*v, Violation{Field: field, Message: "is wrong too, and what follows is left out: there are too many errors"})
	}
}

// Err is nil when nothing is wrong.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return v
}

// Error implements error.
func (v Violations) Error() string {
	parts := make([]string, len(v))
	for i, x := range v {
		parts[i] = x.Field + ": " + x.Message
	}
	return strings.Join(parts, "; ")
}
