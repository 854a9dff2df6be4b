package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// minRSABits is the least RSA key that tokens may be signed with.
const minRSABits = 2048

// SigningKey is the private half of a key that tokens are signed with.
type SigningKey struct {
	// ID is the token header's `kid`: the first 16 hexadecimal digits of the SHA-256 of the public half's
	// PKIX DER form.
	ID     string
	Signer crypto.Signer

	public []byte
}

// Keys finds the public half of a signing key by its id. It is safe for concurrent use.
type Keys interface {
	PublicKey(kid string) (crypto.PublicKey, bool)
}

// KeySet is a fixed set of public keys by id.
type KeySet map[string]crypto.PublicKey

// PublicKey implements Keys.
func (s KeySet) PublicKey(kid string) (crypto.PublicKey, bool) {
	k, ok := s[kid]
	return k, ok
}

// NewES256Key makes a key for zone tokens, as PKCS#8 DER.
func NewES256Key() ([]byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(k)
}

// NewRSAKey makes a key for dataplane tokens, as PKCS#1 DER.
func NewRSAKey() ([]byte, error) {
	k, err := rsa.GenerateKey(rand.Reader, minRSABits)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return x509.MarshalPKCS1PrivateKey(k), nil
}

// ParseSigningKey reads a private key in PEM or DER: PKCS#1, PKCS#8 or SEC 1. It takes ECDSA on P-256 and RSA
// of 2048 bits or more.
func ParseSigningKey(data []byte) (*SigningKey, error) {
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	signer, err := parsePrivate(data)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	kid, _, err := ParsePublicKey(public)
	if err != nil {
		return nil, err
	}
	return &SigningKey{ID: kid, Signer: signer, public: public}, nil
}

func parsePrivate(der []byte) (crypto.Signer, error) {
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// What the parser says could quote the key.
		return nil, errors.New("signing key: neither PKCS#1, PKCS#8 nor SEC 1")
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key: a %T can't sign", k)
	}
	return signer, nil
}

// PublicDER is the public half as PKIX DER, the form that ParsePublicKey reads.
func (k *SigningKey) PublicDER() []byte { return append([]byte(nil), k.public...) }

// ParsePublicKey reads a public key in PKIX DER and gives its id beside it. It takes what ParseSigningKey does.
func ParsePublicKey(der []byte) (string, crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return "", nil, fmt.Errorf("public key: %w", err)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return "", nil, fmt.Errorf("key: RSA of %d bits, at least %d are needed", k.N.BitLen(), minRSABits)
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return "", nil, fmt.Errorf("key: ECDSA on %s, only P-256 is taken", k.Curve.Params().Name)
		}
	default:
		return "", nil, fmt.Errorf("key: %T is neither RSA nor ECDSA", key)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8]), key, nil
}
