package resource

import (
	"fmt"
	"strings"
)

const (
	// MaxNameLength is the length of the longest name that a user may give, in bytes.
	MaxNameLength = 253
	// maxStoredName leaves room for what control planes put around a name: a zone in front, a purpose.
	maxStoredName = MaxNameLength + 64
	// maxInternalName is for internal kinds, whose names may hold a whole key.
	maxInternalName = 1024
	// maxLabel is the length of the longest DNS label.
	maxLabel = 63
)

// ValidateName checks a name, or a mesh's name, that a user gives: digits, lower-case letters, "-" and "_",
// at most MaxNameLength of them. Names with dots are made by control planes, and can only be read and deleted.
func ValidateName(field, name string) Violations {
	var v Violations
	switch {
	case name == "":
		v.Add(field, "cannot be empty")
	case len(name) > MaxNameLength:
		v.Add(field, fmt.Sprintf("is longer than %d characters", MaxNameLength))
	case !isNameCharset(name, "-_"):
		v.Add(field, `has invalid characters: valid are digits, lower-case letters, "-" and "_"`)
	}
	return v
}

// ValidateSecretName is ValidateName for a Secret of a mesh. Those in which the mesh's CAs lie have a dot behind the
// mesh's name, and more where the name of their backend has; they may be written, as an export has them.
func ValidateSecretName(field, mesh, name string) Violations {
	for _, infix := range []string{builtinCert, builtinKey, providedCert, providedKey} {
		if backend, ok := strings.CutPrefix(name, mesh+infix); ok && len(name) <= maxStoredName && isNameCharset(backend, "-_.") {
			return nil
		}
	}
	return ValidateName(field, name)
}

// ValidateZoneName checks the name of a zone: a DNS label, and not "global", which stands for the control
// plane above the zones.
func ValidateZoneName(field, name string) Violations {
	var v Violations
	switch {
	case name == "":
		v.Add(field, "cannot be empty")
	case len(name) > maxLabel || !isNameCharset(name, "-") || name[0] == '-' || name[len(name)-1] == '-':
		v.Add(field, fmt.Sprintf(`must be a DNS label: digits, lower-case letters and inner "-", at most %d characters`, maxLabel))
	case Origin(name) == Global:
		v.Add(field, `"global" names the global control plane and cannot name a zone`)
	}
	return v
}

func isNameCharset(name, also string) bool {
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && strings.IndexByte(also, c) < 0 {
			return false
		}
	}
	return true
}
