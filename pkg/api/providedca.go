package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const (
	titleListCA   = "Could not retrieve signing certificates"
	titleAddCA    = "Could not add a signing certificate"
	titleDeleteCA = "Could not delete a signing certificate"

	// providedBackend is what the CA that a user gives to a mesh of the oldest documents is called in its mesh.
	providedBackend = "provided"
)

// providedCA is the CA of a mesh whose user brings it without naming secrets.
type providedCA struct{ certAt, keyAt resource.Key }

func providedCAOf(mesh string) providedCA {
	at := func(half string) resource.Key {
		return resource.Key{Kind: resource.KindSecret, Scope: mesh, Name: mesh + ".ca-provided-" + half + "-" + providedBackend}
	}
	return providedCA{at("cert"), at("key")}
}

// read gives its halves, PEM; nil where they are not there.
func (p providedCA) read(v store.View) (cert, key []byte, err error) {
	for _, half := range []struct {
		at resource.Key
		to *[]byte
	}{{p.certAt, &cert}, {p.keyAt, &key}} {
		o, ok := v.Get(half.at)
		if !ok {
			continue
		}
		secret, err := resource.Decode[systemv1.Secret](o)
		if err != nil {
			return nil, nil, err
		}
		*half.to = secret.GetData().GetValue()
	}
	return cert, key, nil
}

// certificateID is the same for one certificate however its PEM is written, and on every control plane.
func certificateID(cert []byte) string {
	raw := cert
	if block, _ := pem.Decode(cert); block != nil {
		raw = block.Bytes
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func certificateMessage(cert []byte) *apiv1.ProvidedCertificate {
	return &apiv1.ProvidedCertificate{Id: certificateID(cert), Cert: string(cert)}
}

// ListProvidedCertificates implements the ProvidedCAService.
func (s *Service) ListProvidedCertificates(ctx context.Context, req *apiv1.ListProvidedCertificatesRequest) (*apiv1.ListProvidedCertificatesResponse, error) {
	d, _ := s.Table.ByKind(resource.KindSecret)
	if err := s.mayRead(ctx, d); err != nil {
		return nil, err
	}
	config, _, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	cert, _, err := providedCAOf(req.GetMesh()).read(config)
	if err != nil {
		return nil, s.storeError(err, titleListCA)
	}
	res := &apiv1.ListProvidedCertificatesResponse{}
	if len(cert) > 0 {
		res.Certificates = append(res.Certificates, certificateMessage(cert))
	}
	return res, nil
}

// AddProvidedCertificate implements the ProvidedCAService. The certificate and its key become the mesh's secrets by
// the rules of every write of secrets.
func (s *Service) AddProvidedCertificate(ctx context.Context, req *apiv1.AddProvidedCertificateRequest) (*apiv1.AddProvidedCertificateResponse, error) {
	d, err := s.mayManageCA(ctx)
	if err != nil {
		return nil, err
	}
	var cert, key string
	if err := tokenRequest(req.GetBody(), map[string]any{"cert": &cert, "key": &key}); err != nil {
		return nil, err
	}
	cert, key = strings.TrimSpace(cert), strings.TrimSpace(key)
	var v resource.Violations
	if cert == "" {
		v.Add("cert", "cannot be empty")
	}
	if key == "" {
		v.Add("key", "cannot be empty")
	}
	if len(v) == 0 {
		v = usableCA([]byte(cert), []byte(key))
	}
	if len(v) > 0 {
		return nil, invalid(titleAddCA, detailsInvalid, v)
	}
	at := providedCAOf(req.GetMesh())
	var changes []change
	for _, half := range []struct {
		at   resource.Key
		data string
	}{{at.certAt, cert + "\n"}, {at.keyAt, key + "\n"}} {
		p, err := s.newPut(ctx, d, half.at, resource.Input{Spec: &systemv1.Secret{Data: wrapperspb.Bytes([]byte(half.data))}}, false)
		if err != nil {
			return nil, bodyError(err)
		}
		changes = append(changes, p)
	}
	_, revision, err := s.write(ctx, titleAddCA, func(config, observed store.View) (decision, error) {
		oldCert, oldKey, err := at.read(config)
		if err != nil {
			return decision{}, err
		}
		switch same := certificateID(oldCert) == certificateID([]byte(cert)); {
		case len(oldCert) == 0 || len(oldKey) == 0 || len(usableCA(oldCert, oldKey)) > 0:
		case same && bytes.Equal(bytes.TrimSpace(oldKey), []byte(key)):
			return decision{}, errThere
		case !same:
			return decision{}, invalid(titleAddCA, detailsInvalid, resource.Violations{{
				Field: "cert", Message: fmt.Sprintf("mesh %q has the certificate %s, and can have one only: delete that first", req.GetMesh(), certificateID(oldCert)),
			}})
		}
		return decideAll(ctx, config, observed, changes, true, func(_ int, err error) error { return err })
	})
	if err != nil && !isThere(err) {
		return nil, err
	}
	return &apiv1.AddProvidedCertificateResponse{Certificate: certificateMessage([]byte(cert + "\n")), Revision: uint64(revision)}, nil
}

// usableCA says what is wrong with a CA that a user brings.
func usableCA(cert, key []byte) resource.Violations {
	v := resource.ValidateProvidedCA("", cert, key)
	if len(v) > 0 {
		return v
	}
	if _, err := ca.Parse(cert, key); err != nil {
		v.Add("cert", err.Error())
		v.Add("key", err.Error())
	}
	return v
}

// DeleteProvidedCertificate implements the ProvidedCAService. A backend that is not enabled may name what is deleted:
// its certificate may come later.
func (s *Service) DeleteProvidedCertificate(ctx context.Context, req *apiv1.DeleteProvidedCertificateRequest) (*apiv1.DeleteProvidedCertificateResponse, error) {
	if _, err := s.mayManageCA(ctx); err != nil {
		return nil, err
	}
	at := providedCAOf(req.GetMesh())
	_, revision, err := s.write(ctx, titleDeleteCA, func(config, _ store.View) (decision, error) {
		var d decision
		cert, _, err := at.read(config)
		if err != nil {
			return d, err
		}
		if len(cert) == 0 || certificateID(cert) != req.GetId() {
			return d, notFound(titleDeleteCA)
		}
		for _, k := range []resource.Key{at.certAt, at.keyAt} {
			if o, ok := config.Get(k); ok {
				d.config.Deletes = append(d.config.Deletes, k)
				d.config.Guards = append(d.config.Guards, store.AtRevision(k, o.Revision))
			}
		}
		meshKey := resource.Key{Kind: resource.KindMesh, Name: req.GetMesh()}
		o, ok := config.Get(meshKey)
		if !ok {
			return d, nil
		}
		mesh, err := resource.Decode[meshv1.Mesh](o)
		if err != nil {
			return d, err
		}
		if b := resource.EnabledCA(mesh); b != nil {
			for _, source := range twoOf(resource.CASources(meshKey.Name, b)) {
				if source.Secret == at.certAt || source.Secret == at.keyAt {
					return d, invalid(titleDeleteCA, detailsInvalid, resource.Violations{{
						Field:   "id",
						Message: fmt.Sprintf("the certificate is in use by the enabled mTLS backend %q of mesh %q: switch mTLS off there first", b.GetName(), meshKey.Name),
					}})
				}
			}
		}
		d.config.Guards = append(d.config.Guards, store.AtRevision(meshKey, o.Revision))
		return d, nil
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.DeleteProvidedCertificateResponse{Revision: uint64(revision)}, nil
}

func twoOf(cert, key resource.CASource) [2]resource.CASource {
	return [2]resource.CASource{cert, key}
}

// mayManageCA says why the caller may not change the secrets of a mesh's CA.
func (s *Service) mayManageCA(ctx context.Context) (*resource.Descriptor, error) {
	d, ok := s.Table.ByKind(resource.KindSecret)
	if !ok {
		return nil, resource.ErrUnknownKind
	}
	if err := s.writable(d); err != nil {
		return nil, err
	}
	return d, s.mayWrite(ctx, d)
}
