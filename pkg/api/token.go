package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const (
	titleRequest = "Invalid request"
	titleNoKey   = "Signing Key not found"

	// defaultZoneValidity is how long a zone token holds if nothing is asked for. Dataplane tokens of the
	// published system never end, so theirs is the longest there is.
	defaultZoneValidity = 720 * time.Hour
)

// zoneKey is the secret that signs zone tokens.
func zoneKey() resource.Key {
	return resource.Key{Kind: resource.KindGlobalSecret, Name: "zone-token-signing-key"}
}

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
	key, err := s.signingKey(ctx, zoneKey(), func() ([]store.Put, error) {
		data, err := auth.NewES256Key()
		if err != nil {
			return nil, err
		}
		put, err := secretPut(zoneKey(), data)
		return []store.Put{put}, err
	})
	if err != nil {
		return nil, err
	}
	token, err := auth.IssueZoneToken(key, zone, life, s.Now())
	if err != nil {
		return nil, issueError(err, "zone", "validFor")
	}
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
	if claims.Mesh == "" {
		v.Add("mesh", "cannot be empty")
	}
	if t := claims.Type; t != "" && t != auth.TypeDataplane && t != auth.TypeIngress {
		v.Add("type", fmt.Sprintf("must be %q or %q", auth.TypeDataplane, auth.TypeIngress))
	}
	life := validity(&v, validFor, auth.MaxValidity)
	if len(v) > 0 {
		return nil, invalid(titleRequest, detailsInvalid, v)
	}
	// The key of a mesh is made where the mesh is. A zone that has joined never gets it, and makes its own.
	var make func() ([]store.Put, error)
	if s.Mode == Zone {
		make = func() ([]store.Put, error) {
			data, err := auth.NewRSAKey()
			if err != nil {
				return nil, err
			}
			return keyPuts(claims.Mesh, data)
		}
	}
	key, err := s.signingKey(ctx, dataplaneKeyName(claims.Mesh), make)
	if err != nil {
		return nil, err
	}
	token, err := auth.IssueDataplaneToken(key, claims, life, s.Now())
	if err != nil {
		return nil, issueError(err, "tags", "type", "validFor")
	}
	return &apiv1.IssueDataplaneTokenResponse{Token: token}, nil
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

// signingKey reads a signing key. Where it is missing, make gives what to write to have one; nil: it stays
// missing.
func (s *Service) signingKey(ctx context.Context, name resource.Key, make func() ([]store.Put, error)) (*auth.SigningKey, error) {
	key, err := keyIn(s.Store.Config().View(), name)
	if key != nil || err != nil {
		return key, err
	}
	missing := fail(codes.NotFound, titleNoKey, fmt.Sprintf("There is no %s %q%s. A mesh's key is made with the mesh.", name.Kind, name.Name, inMesh(name.Scope)))
	if make == nil {
		return nil, missing
	}
	var puts []store.Put
	_, _, err = s.write(ctx, titleRequest, func(config, _ store.View) (decision, error) {
		if _, found := config.Get(name); found {
			return decision{}, errThere
		}
		d := decision{config: store.Batch{Guards: []store.Guard{store.AtRevision(name, 0)}}}
		if name.Scope != "" {
			mesh := resource.Key{Kind: resource.KindMesh, Name: name.Scope}
			if _, found := config.Get(mesh); !found {
				return decision{}, missing
			}
			d.config.Guards = append(d.config.Guards, store.Exists(mesh))
		}
		if puts == nil {
			if puts, err = make(); err != nil {
				return decision{}, err
			}
		}
		d.config.Puts = puts
		return d, nil
	})
	if err != nil && !errors.Is(err, errThere) {
		return nil, err
	}
	key, err = keyIn(s.Store.Config().View(), name)
	if key == nil && err == nil {
		err = missing
	}
	return key, err
}

// keyIn parses the signing key in a view; nil if there is none.
func keyIn(v store.View, name resource.Key) (*auth.SigningKey, error) {
	secret, err := find[systemv1.Secret](v, name)
	if secret == nil || err != nil {
		return nil, err
	}
	key, err := auth.ParseSigningKey(secret.GetData().GetValue())
	if err != nil {
		return nil, fail(codes.NotFound, titleNoKey, fmt.Sprintf("The %s %q%s holds no key that can sign: %v", name.Kind, name.Name, inMesh(name.Scope), err))
	}
	return key, nil
}

func inMesh(mesh string) string {
	if mesh == "" {
		return ""
	}
	return fmt.Sprintf(" in mesh %q", mesh)
}

// issueError turns an error that starts with one of the fields into a cause.
func issueError(err error, fields ...string) error {
	if field, message, ok := strings.Cut(err.Error(), ": "); ok && slices.Contains(fields, field) {
		return invalid(titleRequest, detailsInvalid, resource.Violations{{Field: field, Message: message}})
	}
	return fail(codes.NotFound, titleNoKey, err.Error())
}
