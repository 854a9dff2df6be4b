package auth

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"
)

const (
	// legacyMethod is the only one with which the published release signs.
	legacyMethod = "HS256"
	// minLegacySecret is the least that tokens may be made from, in bytes: what the method's hash gives.
	minLegacySecret = sha256.Size
)

// LegacySecret is where the bytes are from which the published release has made a mesh's dataplane tokens.
type LegacySecret struct {
	// Name is what Live.Changed is told when the bytes have changed.
	Name string
	// Bytes gives what the Secret holds now; false: it is not there. It is used concurrently.
	Bytes func() ([]byte, bool)
}

// read gives the bytes if tokens may be made from them. Nothing that is meant to be public, such as the other half
// of a key, is a secret to sign with.
func (s LegacySecret) read() ([]byte, bool) {
	data, ok := s.Bytes()
	return data, ok && len(data) >= minLegacySecret && !isPublic(data)
}

func isPublic(data []byte) bool {
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	_, pkix := x509.ParsePKIXPublicKey(data)
	_, pkcs1 := x509.ParsePKCS1PublicKey(data)
	_, certificate := x509.ParseCertificate(data)
	return pkix == nil || pkcs1 == nil || certificate == nil
}

// legacyKey stands for the bytes of a Secret in what is remembered of a token, which need not hold them.
type legacyKey [sha256.Size]byte

// Equal tells whether they are the same bytes.
func (k legacyKey) Equal(other crypto.PublicKey) bool {
	o, ok := other.(legacyKey)
	return ok && o == k
}

// legacyKeys are the one key that a LegacySecret holds, whatever a token calls it. It verifies nothing by itself.
type legacyKeys struct{ secret LegacySecret }

// PublicKey implements Keys.
func (k legacyKeys) PublicKey(string) (crypto.PublicKey, bool) {
	data, ok := k.secret.read()
	if !ok {
		return nil, false
	}
	return legacyKey(sha256.Sum256(data)), true
}

// verify takes a token that was made from the Secret's bytes. Such a token need not end, nor have an id: then it
// goes by its fingerprint. One whose bytes are a signing key goes with that key's id too.
func (s LegacySecret) verify(token string, _ Keys, now time.Time) (DataplaneToken, proof, error) {
	var c dataplaneClaims
	var data []byte
	err := parse(token, legacyMethod, &c, func(map[string]any) (any, error) {
		var ok bool
		if data, ok = s.read(); !ok {
			return nil, fmt.Errorf("%w: Secret %s holds no bytes from which tokens are made", ErrUnknownKey, s.Name)
		}
		return data, nil
	})
	if err != nil {
		return DataplaneToken{}, proof{}, err
	}
	t := DataplaneToken{DataplaneClaims: DataplaneClaims{Name: c.Name, Mesh: c.Mesh, Tags: c.Tags, Type: c.Type}, ID: c.ID}
	if t.ID == "" {
		t.ID = TokenFingerprint(token)
	}
	if !tokenID.MatchString(t.ID) {
		return DataplaneToken{}, proof{}, errTokenID
	}
	if c.ExpiresAt != nil {
		t.Expires = c.ExpiresAt.Time
	}
	if k, err := ParseSigningKey(data); err == nil {
		t.KeyID = k.ID
	}
	return t, proof{t.KeyID, legacyKey(sha256.Sum256(data)), c.RegisteredClaims, checkGivenTimes}, checkGivenTimes(&c.RegisteredClaims, now)
}

// TokenFingerprint is the id by which a token without one is revoked: its SHA-256, in hexadecimal.
func TokenFingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
