package auth

import (
	"crypto"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

const (
	// MaxValidity is the longest time for which a token is made: ten years.
	MaxValidity = 87600 * time.Hour
	// maxToken bounds what is looked at at all, in bytes.
	maxToken = 16 << 10
	// clockSkew is how far an issuer's clock may be ahead of ours. A token's end is not stretched.
	clockSkew = time.Minute

	zoneMethod      = "ES256"
	dataplaneMethod = "RS256"
	userMethod      = "ES256"
)

// Why a token was refused; the errors of the Verify functions wrap one of them.
var (
	ErrMalformed   = errors.New("token is malformed")
	ErrUnknownKey  = errors.New("token was signed by an unknown key")
	ErrSignature   = errors.New("token's signature is wrong")
	ErrExpired     = errors.New("token has expired")
	ErrNotYetValid = errors.New("token is not valid yet")
)

// claims is what every token carries beside its own.
type claims interface {
	jwt.Claims
	registered() *jwt.RegisteredClaims
}

func registered(validFor time.Duration, now time.Time) (jwt.RegisteredClaims, error) {
	if validFor < time.Second || validFor > MaxValidity {
		return jwt.RegisteredClaims{}, fmt.Errorf("validFor: must be from 1s to %s, got %s", MaxValidity, validFor)
	}
	return jwt.RegisteredClaims{
		ID:        uuid.NewString(),
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(validFor)),
	}, nil
}

func sign(method string, k *SigningKey, c jwt.Claims) (string, error) {
	t := jwt.NewWithClaims(jwt.GetSigningMethod(method), c)
	t.Header["kid"] = k.ID
	s, err := t.SignedString(k.Signer)
	if err != nil {
		return "", fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	return s, nil
}

// verify parses a token into c and gives the key that signed it. Only the given method is taken, whatever the
// token's header asks for.
func verify(token, method string, c claims, keys Keys, now time.Time) (kid string, key crypto.PublicKey, err error) {
	err = parse(token, method, c, func(header map[string]any) (any, error) {
		var known bool
		kid, _ = header["kid"].(string)
		if key, known = keys.PublicKey(kid); !known {
			return nil, fmt.Errorf("%w %q", ErrUnknownKey, kid)
		}
		return key, nil
	})
	if err != nil {
		return "", nil, err
	}
	if !tokenID.MatchString(c.registered().ID) {
		return "", nil, errTokenID
	}
	return kid, key, checkTimes(c.registered(), now)
}

// parse checks a token's signature, of the given method alone, by the key that is found to its header. An error
// of find must be an ErrUnknownKey; it is not called for another method.
func parse(token, method string, c jwt.Claims, find func(header map[string]any) (any, error)) error {
	if len(token) > maxToken {
		return fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxToken)
	}
	var unknown error
	parser := jwt.NewParser(jwt.WithValidMethods([]string{method}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(token, c, func(t *jwt.Token) (key any, err error) {
		key, unknown = find(t.Header)
		return key, unknown
	})
	switch {
	case unknown != nil:
		return unknown
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return ErrSignature
	case err != nil:
		return fmt.Errorf("%w: %s", ErrMalformed, strings.TrimPrefix(err.Error(), jwt.ErrTokenMalformed.Error()+": "))
	}
	return nil
}

// IDOf gives the jti of a token that was not verified; empty: it has none.
func IDOf(token string) string {
	var c jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return ""
	}
	return c.ID
}

// tokenID is what a token's jti may be: what can name its revocation.
var tokenID = regexp.MustCompile(`^[-_a-z0-9]{1,128}$`)

var errTokenID = fmt.Errorf("%w: jti: must be 1 to 128 of a-z, 0-9, - and _", ErrMalformed)

// checkTimes asks for an end too.
func checkTimes(r *jwt.RegisteredClaims, now time.Time) error {
	if r.ExpiresAt == nil {
		return fmt.Errorf("%w: no exp", ErrMalformed)
	}
	return checkGivenTimes(r, now)
}

func checkGivenTimes(r *jwt.RegisteredClaims, now time.Time) error {
	if r.ExpiresAt != nil && !now.Before(r.ExpiresAt.Time) {
		return fmt.Errorf("%w at %s", ErrExpired, r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	for _, from := range []*jwt.NumericDate{r.NotBefore, r.IssuedAt} {
		if from != nil && from.After(now.Add(clockSkew)) {
			return fmt.Errorf("%w, only from %s", ErrNotYetValid, from.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

var zoneLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// checkZone holds the name of a zone to the rules that its objects' names and origins rely on.
func checkZone(zone string) error {
	if !zoneLabel.MatchString(zone) {
		return fmt.Errorf("zone: %q is not a DNS label (lower-case letters, digits and -, at most 63)", zone)
	}
	if zone == "global" {
		return errors.New(`zone: the name "global" is taken by the global control plane`)
	}
	return nil
}

// ZoneToken is what a verified zone token says.
type ZoneToken struct {
	Zone, ID, KeyID string
	Expires         time.Time
}

func (t ZoneToken) credential() Credential {
	return Credential{ID: t.ID, Key: t.KeyID, Expires: t.Expires}
}

type zoneClaims struct {
	Zone string `json:"zone"`
	jwt.RegisteredClaims
}

func (c *zoneClaims) registered() *jwt.RegisteredClaims { return &c.RegisteredClaims }

// IssueZoneToken makes a token with which the zone's control plane joins the global. Errors name the field,
// `zone` or `validFor`. k must be an ECDSA key.
func IssueZoneToken(k *SigningKey, zone string, validFor time.Duration, now time.Time) (string, error) {
	if err := checkZone(zone); err != nil {
		return "", err
	}
	r, err := registered(validFor, now)
	if err != nil {
		return "", err
	}
	return sign(zoneMethod, k, &zoneClaims{Zone: zone, RegisteredClaims: r})
}

// VerifyZoneToken tells whose token it is, if one of keys signed it and it holds now.
func VerifyZoneToken(token string, keys Keys, now time.Time) (ZoneToken, error) {
	t, _, err := verifyZone(token, keys, now)
	return t, err
}

func verifyZone(token string, keys Keys, now time.Time) (ZoneToken, proof, error) {
	var c zoneClaims
	kid, key, err := verify(token, zoneMethod, &c, keys, now)
	if err != nil {
		return ZoneToken{}, proof{}, err
	}
	if err := checkZone(c.Zone); err != nil {
		return ZoneToken{}, proof{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return ZoneToken{Zone: c.Zone, ID: c.ID, KeyID: kid, Expires: c.ExpiresAt.Time}, proof{kid, key, c.RegisteredClaims, checkTimes}, nil
}

// The types of proxy that a dataplane token can be for; an empty type is TypeDataplane.
const (
	TypeDataplane = "dataplane"
	TypeIngress   = "ingress"
)

// DataplaneClaims says for which proxies a token is good. An empty field puts no limit.
type DataplaneClaims struct {
	Name, Mesh string
	// Tags gives for a tag the values that a proxy may have; the proxy must have the tag.
	Tags map[string][]string
	Type string
}

// DataplaneToken is what a verified dataplane token says.
type DataplaneToken struct {
	DataplaneClaims
	ID, KeyID string
	Expires   time.Time
}

func (t DataplaneToken) credential() Credential {
	return Credential{ID: t.ID, Key: t.KeyID, Expires: t.Expires}
}

// dataplaneClaims has the published names and order.
type dataplaneClaims struct {
	Name string
	Mesh string
	Tags map[string][]string
	Type string
	jwt.RegisteredClaims
}

func (c *dataplaneClaims) registered() *jwt.RegisteredClaims { return &c.RegisteredClaims }

// IssueDataplaneToken makes a token with which proxies connect. Errors name the field. k must be an RSA key.
func IssueDataplaneToken(k *SigningKey, c DataplaneClaims, validFor time.Duration, now time.Time) (string, error) {
	if c.Type != "" && c.Type != TypeDataplane && c.Type != TypeIngress {
		return "", fmt.Errorf("type: must be %s or %s, got %q", TypeDataplane, TypeIngress, c.Type)
	}
	r, err := registered(validFor, now)
	if err != nil {
		return "", err
	}
	tags := make(map[string][]string, len(c.Tags))
	for k, v := range c.Tags {
		tags[k] = slices.Sorted(slices.Values(v))
	}
	t, err := sign(dataplaneMethod, k, &dataplaneClaims{Name: c.Name, Mesh: c.Mesh, Tags: tags, Type: c.Type, RegisteredClaims: r})
	if err == nil && len(t) > maxToken {
		return "", fmt.Errorf("tags: the token would be longer than %d bytes", maxToken)
	}
	return t, err
}

// VerifyDataplaneToken tells what a token is good for, if one of keys signed it and it holds now.
func VerifyDataplaneToken(token string, keys Keys, now time.Time) (DataplaneToken, error) {
	t, _, err := verifyDataplane(token, keys, now)
	return t, err
}

func verifyDataplane(token string, keys Keys, now time.Time) (DataplaneToken, proof, error) {
	var c dataplaneClaims
	kid, key, err := verify(token, dataplaneMethod, &c, keys, now)
	if err != nil {
		return DataplaneToken{}, proof{}, err
	}
	return DataplaneToken{
		DataplaneClaims: DataplaneClaims{Name: c.Name, Mesh: c.Mesh, Tags: c.Tags, Type: c.Type},
		ID:              c.ID,
		KeyID:           kid,
		Expires:         c.ExpiresAt.Time,
	}, proof{kid, key, c.RegisteredClaims, checkTimes}, nil
}

// Allows tells whether the token is good for a proxy: its name, mesh, all values of its tags, and whether it
// is an ingress. The error says what does not fit.
func (t DataplaneToken) Allows(name, mesh string, tags map[string][]string, ingress bool) error {
	want := TypeDataplane
	if ingress {
		want = TypeIngress
	}
	typ := t.Type
	if typ == "" {
		typ = TypeDataplane
	}
	if typ != want {
		return fmt.Errorf("the token is for type %q, the proxy is of type %q", typ, want)
	}
	if t.Name != "" && t.Name != name {
		return fmt.Errorf("the token is for the name %q, the proxy has %q", t.Name, name)
	}
	if t.Mesh != "" && t.Mesh != mesh {
		return fmt.Errorf("the token is for the mesh %q, the proxy is in %q", t.Mesh, mesh)
	}
	for tag, allowed := range t.Tags {
		values, ok := tags[tag]
		if !ok {
			return fmt.Errorf("the token asks for the tag %q, which the proxy does not have", tag)
		}
		for _, v := range values {
			if !slices.Contains(allowed, v) {
				return fmt.Errorf("the token allows the tag %q the values %s, the proxy has %q", tag, strings.Join(allowed, ", "), v)
			}
		}
	}
	return nil
}
