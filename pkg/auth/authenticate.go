package auth

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// remembered is how many verified tokens an authenticator keeps.
const remembered = 4096

// RefusedError is the error of an authenticator: the peer is not who it must be. Over gRPC it is Unauthenticated,
// with a message that begins "authentication failed: ".
type RefusedError struct{ Reason error }

// Error gives the reason alone; the caller says what failed by it.
func (r *RefusedError) Error() string { return r.Reason.Error() }

// Unwrap gives the reason.
func (r *RefusedError) Unwrap() error { return r.Reason }

// GRPCStatus lets a gRPC server return a RefusedError as it is.
func (r *RefusedError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, "authentication failed: "+r.Error())
}

func refuse(err error) error { return &RefusedError{Reason: err} }

// The ways in which zones authenticate.
const (
	// ZoneByToken asks for a zone token.
	ZoneByToken = "zoneToken"
	// ZoneByCertificate asks for a client certificate that names the zone.
	ZoneByCertificate = "clientCert"
	// None asks for nothing: a peer is who it says it is.
	None = "none"
	// ProxyByToken asks a proxy for a dataplane token.
	ProxyByToken = "dpToken"
)

// proof is what a verified token rests on.
type proof struct {
	kid   string
	key   crypto.PublicKey
	times jwt.RegisteredClaims
	// check is whether the times hold: checkTimes, but for legacy tokens.
	check func(*jwt.RegisteredClaims, time.Time) error
}

// verified remembers tokens whose signature was right, by their SHA-256, so that a thousand proxies that come
// back at once cost no thousand verifications. Whether the key still counts and the time is right is looked
// at every time.
type verified[T token] struct {
	cache *lru.Cache[[sha256.Size]byte, entry[T]]
}

// token is any of the kinds of token, verified.
type token interface{ credential() Credential }

type entry[T token] struct {
	token T
	proof proof
}

func newVerified[T token]() verified[T] {
	// The only error is a size below one.
	c, _ := lru.New[[sha256.Size]byte, entry[T]](remembered)
	return verified[T]{c}
}

// token verifies, and gives also what a stream that rests on the token must go on resting on.
func (v verified[T]) token(raw string, keys Keys, now time.Time, revoked Revoked, check func(string, Keys, time.Time) (T, proof, error)) (T, Credential, error) {
	if keys == nil {
		keys = KeySet{}
	}
	t, p, err := v.look(raw, keys, now, check)
	if err != nil {
		return t, Credential{}, err
	}
	c := t.credential()
	c.keys, c.proof = keys, p
	return t, c, c.standing(revoked)
}

func (v verified[T]) look(raw string, keys Keys, now time.Time, check func(string, Keys, time.Time) (T, proof, error)) (T, proof, error) {
	if v.cache == nil {
		return check(raw, keys, now)
	}
	sum := sha256.Sum256([]byte(raw))
	if e, ok := v.cache.Get(sum); ok && e.proof.holds(keys) {
		return e.token, e.proof, e.proof.check(&e.proof.times, now)
	}
	t, p, err := check(raw, keys, now)
	if err == nil {
		v.cache.Add(sum, entry[T]{t, p})
	}
	return t, p, err
}

// holds tells whether keys still name the key that signed.
func (p proof) holds(keys Keys) bool {
	key, ok := keys.PublicKey(p.kid)
	if !ok {
		return false
	}
	k, ok := p.key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(key)
}

// ZoneAuthenticator tells which zone is behind a gRPC call. It is safe for concurrent use.
type ZoneAuthenticator struct {
	// Mode is ZoneByToken, ZoneByCertificate or None.
	Mode string
	// Keys are the keys of zone tokens.
	Keys Keys
	// Revoked says what was taken back; nil: nothing.
	Revoked Revoked
	// Now gives the time; nil is time.Now.
	Now func() time.Time

	tokens verified[ZoneToken]
}

// NewZoneAuthenticator makes an authenticator that remembers the tokens it has verified.
func NewZoneAuthenticator(mode string, keys Keys) *ZoneAuthenticator {
	return &ZoneAuthenticator{Mode: mode, Keys: keys, tokens: newVerified[ZoneToken]()}
}

// AuthenticateZone gives the zone that the call's credential names, and the credential. In mode None both are
// empty, and the zone is to be taken from what the peer says. Any error is a *RefusedError.
func (a *ZoneAuthenticator) AuthenticateZone(ctx context.Context) (zone string, c Credential, err error) {
	switch a.Mode {
	case None:
		return "", Credential{}, nil
	case ZoneByToken:
		raw, err := TokenFrom(ctx)
		if err != nil {
			return "", Credential{}, refuse(err)
		}
		t, c, err := a.tokens.token(raw, a.Keys, clock(a.Now), a.Revoked, verifyZone)
		if err != nil {
			return "", Credential{}, refuse(err)
		}
		return t.Zone, c, nil
	case ZoneByCertificate:
		cert := CallerOfPeer(ctx).Certificate
		if cert == nil {
			return "", Credential{}, refuse(errors.New("no verified client certificate"))
		}
		zone := cert.Subject.CommonName
		if zone == "" && len(cert.DNSNames) > 0 {
			zone = cert.DNSNames[0]
		}
		if err := checkZone(zone); err != nil {
			return "", Credential{}, refuse(fmt.Errorf("client certificate: %w", err))
		}
		c := ofCertificate(cert)
		if err := c.standing(a.Revoked); err != nil {
			return "", Credential{}, refuse(err)
		}
		return zone, c, nil
	}
	return "", Credential{}, refuse(fmt.Errorf("unknown mode %q", a.Mode))
}

// ProxyAuthenticator tells whether a proxy may connect as what it says it is. It is safe for concurrent use.
type ProxyAuthenticator struct {
	// Mode is ProxyByToken or None.
	Mode string
	// Keys gives the keys of a mesh's dataplane tokens.
	Keys func(mesh string) Keys
	// Legacy gives where the bytes of a mesh's legacy tokens are; nil: none is taken.
	Legacy func(mesh string) LegacySecret
	// Revoked says what was taken back; nil: nothing.
	Revoked Revoked
	// Now gives the time; nil is time.Now.
	Now func() time.Time

	tokens verified[DataplaneToken]
}

// NewProxyAuthenticator makes an authenticator that remembers the tokens it has verified.
func NewProxyAuthenticator(mode string, keys func(mesh string) Keys) *ProxyAuthenticator {
	return &ProxyAuthenticator{Mode: mode, Keys: keys, tokens: newVerified[DataplaneToken]()}
}

// AuthenticateProxy checks a token, bare or after "Bearer ", for a proxy of the given mesh, name and tags, and
// gives the credential that it is (none in mode None). Any error is a *RefusedError.
func (a *ProxyAuthenticator) AuthenticateProxy(_ context.Context, token, mesh, name string, tags map[string][]string, ingress bool) (Credential, error) {
	if a.Mode == None {
		return Credential{}, nil
	}
	if a.Mode != ProxyByToken {
		return Credential{}, refuse(fmt.Errorf("unknown mode %q", a.Mode))
	}
	token = bare(token)
	if token == "" {
		return Credential{}, refuse(errNoToken)
	}
	t, c, err := a.tokens.token(token, a.Keys(mesh), clock(a.Now), a.Revoked, verifyDataplane)
	if a.Legacy != nil && errors.Is(err, ErrSignature) {
		secret := a.Legacy(mesh)
		t, c, err = a.tokens.token(token, legacyKeys{secret}, clock(a.Now), a.Revoked, secret.verify)
		c.Legacy = secret.Name
	}
	if err != nil {
		return Credential{}, refuse(err)
	}
	if err := t.Allows(name, mesh, tags, ingress); err != nil {
		return Credential{}, refuse(err)
	}
	return c, nil
}

var errNoToken = errors.New("no token in the authorization metadata")

// TokenFrom gives the token in the metadata `authorization` of a gRPC call, where it stands bare or after
// "Bearer ". Exactly one is taken.
func TokenFrom(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) > 1 {
		return "", errors.New("more than one token in the authorization metadata")
	}
	token := bare(first(values))
	if token == "" {
		return "", errNoToken
	}
	return token, nil
}

func bare(token string) string {
	if t, ok := bearer(token); ok {
		return t
	}
	return strings.TrimSpace(token)
}

// bearer cuts "Bearer " off; false: it is not there.
func bearer(value string) (string, bool) {
	const prefix = "bearer "
	if len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) {
		return "", false
	}
	return strings.TrimSpace(value[len(prefix):]), true
}

func clock(now func() time.Time) time.Time {
	if now == nil {
		return time.Now()
	}
	return now()
}
