package resource

import "strings"

// Violation is one thing that is wrong with a body.
type Violation struct {
	// Field is a path in the grammar of spec 1.2: dots, [i], ["key"].
	Field   string
	Message string
}

// Violations is all that is wrong with a body. As an error it lists every one.
type Violations []Violation

// Add appends one violation.
func (v *Violations) Add(field, message string) { *v = append(*v, Violation{Field: field, Message: message}) }

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
