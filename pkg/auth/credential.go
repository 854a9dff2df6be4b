package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrRevoked: a credential, or the key that signed it, was taken back.
var ErrRevoked = errors.New("credential has been revoked")

// Credential is what a stream or a call rests on, beyond the moment in which it was verified. The zero Credential
// always holds.
type Credential struct {
	// ID is a token's jti, or a client certificate's fingerprint.
	ID string
	// Key is the kid of the key that signed a token; empty for a certificate, and for a legacy token that was made
	// from bytes which are no key.
	Key string
	// Legacy names the Secret from whose bytes a legacy token was made; empty for anything else.
	Legacy string
	// Expires is when it ends; zero: never.
	Expires time.Time

	// keys must go on naming the key by which it was verified.
	keys  Keys
	proof proof
}

// Endless says that nothing can end it: it is no credential at all.
func (c Credential) Endless() bool { return c.ID == "" && c.Key == "" && c.Expires.IsZero() }

// under is by what it is found when one of them has changed.
func (c Credential) under() []string {
	return slices.DeleteFunc([]string{c.ID, c.Key, c.Legacy}, func(id string) bool { return id == "" })
}

// Revoked says whether a jti, a kid or a fingerprint was taken back. It is used concurrently.
type Revoked func(id string) bool

// standing says why a credential that was verified before does not hold any more.
func (c Credential) standing(revoked Revoked) error {
	for _, id := range []string{c.ID, c.Key} {
		if id != "" && revoked != nil && revoked(id) {
			return fmt.Errorf("%w: %s", ErrRevoked, id)
		}
	}
	if c.keys != nil && !c.proof.holds(c.keys) {
		return fmt.Errorf("%w %q", ErrUnknownKey, c.Key)
	}
	return nil
}

// Fingerprint is the id by which a certificate is revoked: the SHA-256 of its DER form, in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// ofCertificate is the credential of a client certificate that was verified.
func ofCertificate(c *x509.Certificate) Credential {
	return Credential{ID: Fingerprint(c), Expires: c.NotAfter}
}
