package auth

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The roles that a user token can give. Whoever reaches the API may read what is public without any.
const (
	// RoleAdmin may do everything: also read and write secrets, have tokens made, and revoke them.
	RoleAdmin = "admin"
	// RoleWriter may write what is no secret.
	RoleWriter = "writer"
)

// Roles are the roles that there are.
func Roles() []string { return []string{RoleAdmin, RoleWriter} }

// UserToken is what a verified user token says.
type UserToken struct {
	Name, Role, ID, KeyID string
	Expires               time.Time
}

func (t UserToken) credential() Credential {
	return Credential{ID: t.ID, Key: t.KeyID, Expires: t.Expires}
}

type userClaims struct {
	Name string `json:"name"`
	Role string `json:"role"`
	jwt.RegisteredClaims
}

func (c *userClaims) registered() *jwt.RegisteredClaims { return &c.RegisteredClaims }

// userName is what a user may be called: it stands in audit lines.
var userName = regexp.MustCompile(`^[!-~]{1,253}$`)

// CheckUser says what is wrong with a user's name and role, by field.
func CheckUser(name, role string) map[string]string {
	wrong := map[string]string{}
	if !userName.MatchString(name) {
		wrong["name"] = "must be 1 to 253 printable ASCII characters without spaces"
	}
	if !slices.Contains(Roles(), role) {
		wrong["role"] = fmt.Sprintf("must be %q or %q", RoleAdmin, RoleWriter)
	}
	return wrong
}

func checkUser(name, role string) error {
	wrong := CheckUser(name, role)
	for _, field := range []string{"name", "role"} {
		if message := wrong[field]; message != "" {
			return fmt.Errorf("%s: %s", field, message)
		}
	}
	return nil
}

// IssueUserToken makes a token with which a person or a program uses the API over the network. Errors name the
// field, `name`, `role` or `validFor`. k must be an ECDSA key.
func IssueUserToken(k *SigningKey, name, role string, validFor time.Duration, now time.Time) (string, error) {
	if err := checkUser(name, role); err != nil {
		return "", err
	}
	r, err := registered(validFor, now)
	if err != nil {
		return "", err
	}
	return sign(userMethod, k, &userClaims{Name: name, Role: role, RegisteredClaims: r})
}

// VerifyUserToken tells whose token it is, if one of keys signed it and it holds now.
func VerifyUserToken(token string, keys Keys, now time.Time) (UserToken, error) {
	t, _, err := verifyUser(token, keys, now)
	return t, err
}

func verifyUser(token string, keys Keys, now time.Time) (UserToken, proof, error) {
	var c userClaims
	kid, key, err := verify(token, userMethod, &c, keys, now)
	if err != nil {
		return UserToken{}, proof{}, err
	}
	if err := checkUser(c.Name, c.Role); err != nil {
		return UserToken{}, proof{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return UserToken{Name: c.Name, Role: c.Role, ID: c.ID, KeyID: kid, Expires: c.ExpiresAt.Time}, proof{kid, key, c.RegisteredClaims, checkTimes}, nil
}

// UserAuthenticator tells who uses the API. It is safe for concurrent use.
type UserAuthenticator struct {
	// Keys are the keys of user tokens.
	Keys Keys
	// Revoked says what was taken back; nil: nothing.
	Revoked Revoked
	// Now gives the time; nil is time.Now.
	Now func() time.Time

	tokens verified[UserToken]
}

// NewUserAuthenticator makes an authenticator that remembers the tokens it has verified.
func NewUserAuthenticator(keys Keys, revoked Revoked) *UserAuthenticator {
	return &UserAuthenticator{Keys: keys, Revoked: revoked, tokens: newVerified[UserToken]()}
}

// AuthenticateUser gives the caller with the user whose token it brought, and the credential that the call rests
// on: the token, else the client certificate, else none. A token that came over plain HTTP from another machine
// is refused, and so is one that does not hold: no call that shows a credential is taken for one that shows none.
// Any error is a *RefusedError.
func (a *UserAuthenticator) AuthenticateUser(c Caller) (Caller, Credential, error) {
	switch {
	case len(c.Authorization) > 1:
		return c, Credential{}, refuse(errors.New("more than one Authorization"))
	case len(c.Authorization) == 1:
		token, ok := bearer(c.Authorization[0])
		if !ok {
			return c, Credential{}, refuse(errors.New(`the Authorization header must be "Bearer" and a user token`))
		}
		if !c.TLS && !c.loopback() {
			return c, Credential{}, refuse(errors.New("a token was sent over plain HTTP, where anyone on the way can read it: revoke it, and use HTTPS"))
		}
		t, credential, err := a.tokens.token(token, a.Keys, clock(a.Now), a.Revoked, verifyUser)
		if err != nil {
			return c, Credential{}, refuse(err)
		}
		c.User = &t
		return c, credential, nil
	case c.Certificate != nil:
		credential := ofCertificate(c.Certificate)
		if err := credential.standing(a.Revoked); err != nil {
			return c, Credential{}, refuse(err)
		}
		return c, credential, nil
	}
	return c, Credential{}, nil
}
