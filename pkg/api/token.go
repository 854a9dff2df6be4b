package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

const (
	titleRequest = "Invalid request"
	titleNoKey   = "Signing Key not found"

	// defaultZoneValidity is how long a zone token holds if nothing is asked for. Dataplane tokens of the
	// published system never end, so theirs is the longest there is.
	defaultZoneValidity = 720 * time.Hour
	defaultUserValidity = 720 * time.Hour
)

// IssueZoneToken implements the TokenService.
func (s *Service) IssueZoneToken(ctx context.Context, req *apiv1.IssueZoneTokenRequest) (*apiv1.IssueZoneTokenResponse, error) {
	if s.Mode != Global {
		return nil, notAllowed("Zone tokens are issued by the global control plane. Use its API.")
	}
	c, _ := auth.CallerFrom(ctx)
	if err := s.admin(c); err != nil {
		return nil, err
	}
	var zone, validFor string
	if err := tokenRequest(req.GetBody(), map[string]any{"zone": &zone, "validFor": &validFor}); err != nil {
		return nil, err
	}
	v := resource.ValidateZoneName("zone", zone)
	life := validity(&v, validFor, defaultZoneValidity)
	if len(v) > 0 {
		return nil, invalid(titleRequest, detailsInvalid, v)
	}
	key, err := s.signingKey(ctx, zoneKeys(), true)
	if err != nil {
		return nil, err
	}
	token, err := auth.IssueZoneToken(key, zone, life, s.Now())
	if err != nil {
		return nil, issueError(err, "zone", "validFor")
	}
	s.issued(ctx, useZone, zone, token, key, life)
	return &apiv1.IssueZoneTokenResponse{Token: token}, nil
}

// IssueDataplaneToken implements the TokenService.
func (s *Service) IssueDataplaneToken(ctx context.Context, req *apiv1.IssueDataplaneTokenRequest) (*apiv1.IssueDataplaneTokenResponse, error) {
	c, _ := auth.CallerFrom(ctx)
	if err := s.admin(c); err != nil {
		return nil, err
	}
	var claims auth.DataplaneClaims
	var validFor string
	if err := tokenRequest(req.GetBody(), map[string]any{
		"name": &claims.Name, "mesh": &claims.Mesh, "tags": &claims.Tags, "type": &claims.Type, "validFor": &validFor,
	}); err != nil {
		return nil, err
	}
	var v resource.Violations
	wellKnown(&v, claims.Tags)
	if claims.Mesh == "" {
		v.Add("mesh", "cannot be empty")
	}
	if claims.Name == "" && req.GetNamed() {
		v.Add("name", "cannot be empty")
	}
	if t := claims.Type; t != "" && t != auth.TypeDataplane && t != auth.TypeIngress {
		v.Add("type", fmt.Sprintf("must be %q or %q", auth.TypeDataplane, auth.TypeIngress))
	}
	life := validity(&v, validFor, auth.MaxValidity)
	if len(v) > 0 {
		return nil, invalid(titleRequest, detailsInvalid, v)
	}
	// The key of a mesh is made where the mesh is. A zone that has joined never gets it, and makes its own.
	key, err := s.signingKey(ctx, dataplaneKeys(claims.Mesh), s.Mode == Zone)
	if err != nil {
		return nil, err
	}
	token, err := auth.IssueDataplaneToken(key, claims, life, s.Now())
	if err != nil {
		return nil, issueError(err, "tags", "type", "validFor")
	}
	s.issued(ctx, useDataplane, claims.Mesh+"."+claims.Name, token, key, life)
	return &apiv1.IssueDataplaneTokenResponse{Token: token}, nil
}

// wellKnown gives the tags that older clients write without a prefix their present names.
func wellKnown(v *resource.Violations, tags map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		known := resource.WellKnownTag(name)
		switch _, both := tags[known]; {
		case known == name:
		case both:
			v.Add("tags["+strconv.Quote(name)+"]", fmt.Sprintf("is read as %q, which is given too", known))
		default:
			tags[known] = tags[name]
			delete(tags, name)
		}
	}
}

// IssueUserToken implements the TokenService.
func (s *Service) IssueUserToken(ctx context.Context, req *apiv1.IssueUserTokenRequest) (*apiv1.IssueUserTokenResponse, error) {
	if s.Mode == Zone {
		return nil, notAllowed("User tokens are issued by the global control plane, and hold here too. Use its API.")
	}
	c, _ := auth.CallerFrom(ctx)
	if err := s.admin(c); err != nil {
		return nil, err
	}
	var name, role, validFor string
	if err := tokenRequest(req.GetBody(), map[string]any{"name": &name, "role": &role, "validFor": &validFor}); err != nil {
		return nil, err
	}
	v := auth.CheckUser(name, role)
	var violations resource.Violations
	for _, field := range slices.Sorted(maps.Keys(v)) {
		violations.Add(field, v[field])
	}
	life := validity(&violations, validFor, defaultUserValidity)
	if len(violations) > 0 {
		return nil, invalid(titleRequest, detailsInvalid, violations)
	}
	key, err := s.signingKey(ctx, userKeys(), true)
	if err != nil {
		return nil, err
	}
	token, err := auth.IssueUserToken(key, name, role, life, s.Now())
	if err != nil {
		return nil, issueError(err, "name", "role", "validFor")
	}
	s.issued(ctx, useUser, name, token, key, life)
	return &apiv1.IssueUserTokenResponse{Token: token}, nil
}

// issued leaves a line of who had which token made, by the ids that it can be revoked by.
func (s *Service) issued(ctx context.Context, use, of, token string, key *auth.SigningKey, life time.Duration) {
	a := author(ctx)
	s.Logger.InfoContext(ctx, "token issued", "who", a.Who, "request", a.Request, "use", use, "of", of, "jti", auth.IDOf(token), "kid", key.ID, "validFor", life.String())
}

// GenerateSigningKey implements the TokenService.
func (s *Service) GenerateSigningKey(ctx context.Context, req *apiv1.GenerateSigningKeyRequest) (*apiv1.GenerateSigningKeyResponse, error) {
	if s.ReadOnly {
		return nil, notAllowed("The API of this control plane is read-only (apiServer.readOnly); make keys where that is not set.")
	}
	c, _ := auth.CallerFrom(ctx)
	if err := s.admin(c); err != nil {
		return nil, err
	}
	var use, mesh string
	if err := tokenRequest(req.GetBody(), map[string]any{"use": &use, "mesh": &mesh}); err != nil {
		return nil, err
	}
	ring, err := s.keyring(use, mesh)
	if err != nil {
		return nil, err
	}
	private, err := ring.generate()
	if err != nil {
		return nil, s.storeError(err, titleRequest)
	}
	var name string
	var key *auth.SigningKey
	_, revision, err := s.write(ctx, titleRequest, func(config, _ store.View) (decision, error) {
		all, err := ring.in(config)
		if err != nil {
			return decision{}, err
		}
		if len(all) >= maxSigningKeys {
			return decision{}, fail(codes.InvalidArgument, titleRequest, fmt.Sprintf("There are %d keys already; delete those whose tokens need not hold any more", len(all)))
		}
		n := 1
		if len(all) > 0 {
			n = all[0].number + 1
		}
		var d decision
		name = ring.secret(n).Name
		d.config.Puts, key, err = ring.puts(n, private)
		if err != nil {
			return d, err
		}
		guards, err := ring.guards(config)
		d.config.Guards = append(guards, store.AtRevision(ring.secret(n), 0))
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.GenerateSigningKeyResponse{Name: name, Kid: key.ID, Revision: revision.String()}, nil
}

// keyring finds the keys of a use that are made here.
func (s *Service) keyring(use, mesh string) (keyring, error) {
	var v resource.Violations
	switch use {
	case useDataplane:
		if v = resource.ValidateName("mesh", mesh); len(v) > 0 {
			return keyring{}, invalid(titleRequest, detailsInvalid, v)
		}
		return dataplaneKeys(mesh), nil
	case useZone, useUser:
		if mesh != "" {
			v.Add("mesh", fmt.Sprintf("keys of use %q belong to no mesh", use))
			return keyring{}, invalid(titleRequest, detailsInvalid, v)
		}
		if s.Mode == Zone || use == useZone && s.Mode != Global {
			return keyring{}, notAllowed("Keys for tokens of use %q are made on the global control plane. Use its API.", use)
		}
		if use == useZone {
			return zoneKeys(), nil
		}
		return userKeys(), nil
	}
	v.Add("use", fmt.Sprintf("must be %q, %q or %q", useZone, useUser, useDataplane))
	return keyring{}, invalid(titleRequest, detailsInvalid, v)
}

// validity reads how long a token is to hold.
func validity(v *resource.Violations, given string, otherwise time.Duration) time.Duration {
	if given == "" {
		return otherwise
	}
	d, err := time.ParseDuration(given)
	switch {
	case err != nil:
		v.Add("validFor", `must be a duration, such as "720h"`)
	case d < time.Second || d > auth.MaxValidity:
		v.Add("validFor", fmt.Sprintf("must be from 1s to %dh", auth.MaxValidity/time.Hour))
	}
	return d
}

// tokenRequest reads a JSON object into the named fields, each a pointer. Every key that is unknown or has
// another type is a cause.
func tokenRequest(body []byte, fields map[string]any) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(body, &given); err != nil || given == nil {
		return fail(codes.InvalidArgument, titleRequest, "Request body is not a JSON object")
	}
	var v resource.Violations
	for _, name := range slices.Sorted(maps.Keys(given)) {
		to, ok := fields[name]
		if !ok {
			v.Add(name, "unknown field")
			continue
		}
		if err := json.Unmarshal(given[name], to); err != nil {
			want := "a string"
			if _, isString := to.(*string); !isString {
				want = `an object of lists, such as {"kuma.io/service": ["web"]}`
			}
			v.Add(name, "must be "+want)
		}
	}
	if len(v) > 0 {
		return invalid(titleRequest, detailsInvalid, v)
	}
	return nil
}

// signingKey gives the key that signs. Where there is none at all, and make is set, one is made.
func (s *Service) signingKey(ctx context.Context, ring keyring, make bool) (*auth.SigningKey, error) {
	key, n, err := s.signer(s.Store.Config().View(), ring)
	switch {
	case key != nil || err != nil:
		return key, err
	case n > 0:
		return nil, noSigner(ring)
	case !make:
		return nil, noKey(ring)
	}
	private, err := ring.generate()
	if err != nil {
		return nil, s.storeError(err, titleRequest)
	}
	_, _, err = s.write(ctx, titleRequest, func(config, _ store.View) (decision, error) {
		var d decision
		if _, n, err := s.signer(config, ring); n > 0 || err != nil {
			return d, cmp.Or(err, errThere)
		}
		guards, err := ring.guards(config)
		if err != nil {
			return d, err
		}
		d.config.Guards = append(guards, store.AtRevision(ring.secret(1), 0))
		d.config.Puts, _, err = ring.puts(1, private)
		return d, err
	})
	if err != nil && !isThere(err) {
		return nil, err
	}
	key, _, err = s.signer(s.Store.Config().View(), ring)
	if key == nil && err == nil {
		err = noSigner(ring)
	}
	return key, err
}

// guards are what a new key of the ring needs.
func (r keyring) guards(config store.View) ([]store.Guard, error) {
	if r.mesh == "" {
		return nil, nil
	}
	mesh := resource.Key{Kind: resource.KindMesh, Name: r.mesh}
	if _, found := config.Get(mesh); !found {
		return nil, noKey(r)
	}
	return []store.Guard{store.Exists(mesh)}, nil
}

func isThere(err error) bool { return errors.Is(err, errThere) }

func noKey(r keyring) error {
	return fail(codes.NotFound, titleNoKey, fmt.Sprintf("There is no %s. A mesh's key is made with the mesh.", r))
}

func noSigner(r keyring) error {
	return fail(codes.NotFound, titleNoKey, fmt.Sprintf("The %s holds no key that can sign, and no newer one does; have one made by POST /signing-keys.", r))
}

// issueError turns an error that starts with one of the fields into a cause.
func issueError(err error, fields ...string) error {
	if field, message, ok := strings.Cut(err.Error(), ": "); ok && slices.Contains(fields, field) {
		return invalid(titleRequest, detailsInvalid, resource.Violations{{Field: field, Message: message}})
	}
	return fail(codes.NotFound, titleNoKey, err.Error())
}
