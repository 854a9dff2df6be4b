package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// fileWait bounds the wait for what is no file after all.
const fileWait = time.Second

// maxCAFile bounds what is read of a file that a provided CA names, in bytes.
const maxCAFile = 16 << 10

// authorities sees to the CAs of a mesh that is written: it makes the builtin ones that are missing, and looks
// into the provided one that is enabled. What it has made it keeps, for a write that is decided again.
type authorities struct {
	now func() time.Time
	// readsFiles says whether the writer may let the control plane read its files.
	readsFiles bool
	// dry says that nothing will be stored: no CA is made.
	dry bool

	made map[string]authority
}

// authority is a builtin CA, PEM.
type authority struct{ cert, key []byte }

// of adds to a batch the secrets that the mesh's CAs need, and guards what it has read to decide on them. It
// says what is wrong with a provided CA.
func (a *authorities) of(ctx context.Context, config store.View, mesh string, m *meshv1.Mesh, b *store.Batch) (resource.Violations, error) {
	if err := a.builtin(ctx, config, mesh, m, b); err != nil {
		return nil, err
	}
	enabled := resource.EnabledCA(m)
	if enabled == nil || resource.IsBuiltinCA(enabled) {
		return nil, nil
	}
	for i, backend := range m.GetMtls().GetBackends() {
		if backend == enabled {
			return a.provided(config, mesh, fmt.Sprintf("mtls.backends[%d].config", i), backend, b)
		}
	}
	return nil, nil
}

// builtin makes a CA for each builtin backend that has none. One that has only half of one gets a new one: the
// other half is of no use.
func (a *authorities) builtin(ctx context.Context, config store.View, mesh string, m *meshv1.Mesh, b *store.Batch) error {
	for _, backend := range m.GetMtls().GetBackends() {
		if !resource.IsBuiltinCA(backend) {
			continue
		}
		certAt, keyAt := resource.CASources(mesh, backend)
		cert, hasCert := config.Get(certAt.Secret)
		key, hasKey := config.Get(keyAt.Secret)
		if hasCert && hasKey {
			b.Guards = append(b.Guards, store.Exists(certAt.Secret), store.Exists(keyAt.Secret))
			continue
		}
		if a.dry {
			continue
		}
		made, err := a.make(ctx, mesh, backend)
		if err != nil {
			return fmt.Errorf("make the CA %q of mesh %q: %w", backend.GetName(), mesh, err)
		}
		for _, half := range []struct {
			key  resource.Key
			old  *resource.Object
			data []byte
		}{{certAt.Secret, cert, made.cert}, {keyAt.Secret, key, made.key}} {
			put, err := secretPut(half.key, half.data)
			if err != nil {
				return err
			}
			b.Puts = append(b.Puts, put)
			at := resource.Revision(0)
			if half.old != nil {
				at = half.old.Revision
			}
			b.Guards = append(b.Guards, store.AtRevision(half.key, at))
		}
	}
	return nil
}

// make generates the CA of a backend, once. A large RSA key takes seconds, so whoever no longer waits for the
// next one is not served it.
func (a *authorities) make(ctx context.Context, mesh string, b *meshv1.CertificateAuthorityBackend) (authority, error) {
	if made, ok := a.made[b.GetName()]; ok {
		return made, nil
	}
	if err := ctx.Err(); err != nil {
		return authority{}, err
	}
	bits, validFor := resource.BuiltinCA(b)
	cert, key, err := ca.Generate(ca.Config{Mesh: mesh, RSABits: bits, ValidFor: validFor, Now: a.now()})
	if err != nil {
		return authority{}, err
	}
	if a.made == nil {
		a.made = map[string]authority{}
	}
	made := authority{cert, key}
	a.made[b.GetName()] = made
	return made, nil
}

// provided looks into the CA of an enabled backend. Halves that lie in files are kept in secrets, where the
// zones find them. Those of older documents' meshes (<mesh>.ca-provided-…-provided) may come later; what is
// wrong with either half is said of both, as the pair is of no use.
func (a *authorities) provided(config store.View, mesh, path string, backend *meshv1.CertificateAuthorityBackend, b *store.Batch) (resource.Violations, error) {
	certAt, keyAt := resource.CASources(mesh, backend)
	var v resource.Violations
	halves := map[string][]byte{}
	for _, half := range []struct {
		name string
		at   resource.CASource
	}{{"cert", certAt}, {"key", keyAt}} {
		switch {
		case half.at.File != "" && a.readsFiles:
			data, err := readCAFile(half.at.File)
			if err != nil {
				message := fmt.Sprintf("the file %q of the %s %v", half.at.File, half.name, err)
				v.Add(path+".cert", message)
				v.Add(path+".key", message)
				continue
			}
			if err := keep(config, half.at.Secret, data, b); err != nil {
				return nil, err
			}
			halves[half.name] = data
		case half.at.Secret.Name != "":
			o, ok := config.Get(half.at.Secret)
			switch {
			case ok:
			case half.at.File != "":
				v.Add(path+"."+half.name, "files of the control plane are read for administrators only")
				continue
			case half.at.Secret.Name == mesh+".ca-provided-"+half.name+"-provided":
				b.Guards = append(b.Guards, store.AtRevision(half.at.Secret, 0))
				continue
			default:
				v.Add(path+"."+half.name, fmt.Sprintf("secret %q is not in mesh %q", half.at.Secret.Name, mesh))
				continue
			}
			secret, err := resource.Decode[systemv1.Secret](o)
			if err != nil {
				return nil, err
			}
			b.Guards = append(b.Guards, store.AtRevision(half.at.Secret, o.Revision))
			halves[half.name] = secret.GetData().GetValue()
		default:
			halves[half.name] = half.at.Inline
		}
	}
	cert, hasCert := halves["cert"]
	key, hasKey := halves["key"]
	if len(v) > 0 || !hasCert || !hasKey {
		return v, nil
	}
	if v = resource.ValidateProvidedCA(path, cert, key); len(v) > 0 {
		return v, nil
	}
	if _, err := ca.Parse(cert, key); err != nil {
		v.Add(path+".cert", err.Error())
		v.Add(path+".key", err.Error())
	}
	return v, nil
}

// upholds refuses bytes in a secret that would leave its mesh without the usable CA that it has: everything that
// the mesh carries rests on it. A CA that is not usable as it is may be mended half by half.
func (p *put) upholds(st state, b *store.Batch) (resource.Violations, error) {
	meshKey := resource.Key{Kind: resource.KindMesh, Name: p.key.Scope}
	o, ok := st.after.Get(meshKey)
	if !ok {
		return nil, nil
	}
	mesh, err := resource.Decode[meshv1.Mesh](o)
	if err != nil {
		return nil, err
	}
	backend := resource.EnabledCA(mesh)
	certAt, keyAt := resource.CASources(meshKey.Name, backend)
	if p.key != certAt.Secret && p.key != keyAt.Secret {
		return nil, nil
	}
	unusable := func(get func(resource.Key) (*resource.Object, bool)) error {
		cert, err := certAt.Read(get)
		if err != nil {
			return err
		}
		key, err := keyAt.Read(get)
		if err != nil {
			return err
		}
		if v := resource.ValidateProvidedCA("", cert, key); len(v) > 0 {
			return errors.New(v[0].Message)
		}
		_, err = ca.Parse(cert, key)
		return err
	}
	if unusable(st.before.Get) != nil {
		return nil, nil
	}
	b.Guards = append(b.Guards, store.AtRevision(meshKey, o.Revision))
	err = unusable(func(k resource.Key) (*resource.Object, bool) {
		other, ok := st.after.Get(k)
		if ok {
			b.Guards = append(b.Guards, store.AtRevision(k, other.Revision))
		}
		return other, ok
	})
	var v resource.Violations
	if err != nil {
		v.Add("data", fmt.Sprintf("mesh %q would be left without a CA, as its enabled mTLS backend %q rests on this: %v; put a new CA into other secrets, and name them in the mesh", meshKey.Name, backend.GetName(), err))
	}
	return v, nil
}

// keep adds a secret to a batch, unless it holds the data already.
func keep(config store.View, at resource.Key, data []byte, b *store.Batch) error {
	put, err := secretPut(at, data)
	if err != nil {
		return err
	}
	o, ok := config.Get(at)
	if ok {
		b.Guards = append(b.Guards, store.AtRevision(at, o.Revision))
		if bytes.Equal(o.Spec, put.Spec) {
			return nil
		}
	} else {
		b.Guards = append(b.Guards, store.AtRevision(at, 0))
	}
	b.Puts = append(b.Puts, put)
	return nil
}

// readCAFile reads a file of the control plane. The error completes a sentence about the file, and says nothing
// of what is in it.
func readCAFile(name string) ([]byte, error) {
	// Asked first, as to open a device may do something, and again, as it may be another one by then.
	if info, err := os.Stat(name); err != nil {
		return nil, fileError(err)
	} else if !info.Mode().IsRegular() {
		return nil, errIrregular
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fileError(err)
	} else if !info.Mode().IsRegular() {
		return nil, errIrregular
	}
	// What looks regular and waits for data, as some of /proc does, takes a deadline; what is regular takes none.
	_ = f.SetReadDeadline(time.Now().Add(fileWait))
	data, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	switch {
	case err != nil:
		return nil, fileError(err)
	case len(data) > maxCAFile:
		return nil, fmt.Errorf("is larger than %d bytes", maxCAFile)
	case len(data) == 0:
		return nil, errors.New("is empty")
	}
	return data, nil
}

var errIrregular = errors.New("is no regular file")

func fileError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("is not there; it must be at the control plane that takes this request")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by the control plane")
	}
	return errors.New("cannot be read")
}

// EnsureAuthorities makes the builtin CAs that the meshes of this control plane lack: those that were stored
// before CAs were made with their meshes. It is for the assembly to call at the start where meshes are born.
// Several control planes of one store may do so at once.
func (s *Service) EnsureAuthorities(ctx context.Context) error {
	for o := range s.Store.Config().View().Scan(store.OfKind(resource.KindMesh)) {
		if o.Origin != resource.Local {
			continue
		}
		a := authorities{now: s.Now}
		_, _, err := s.write(ctx, titleUpdate, func(config, _ store.View) (decision, error) {
			var d decision
			now, ok := config.Get(o.Key)
			if !ok {
				return d, errThere
			}
			mesh, err := resource.Decode[meshv1.Mesh](now)
			if err != nil {
				return d, err
			}
			if err := a.builtin(ctx, config, now.Key.Name, mesh, &d.config); err != nil {
				return d, err
			}
			if len(d.config.Puts) == 0 {
				return d, errThere
			}
			d.config.Guards = append(d.config.Guards, store.AtRevision(now.Key, now.Revision))
			return d, nil
		})
		if err != nil && !errors.Is(err, errThere) {
			return fmt.Errorf("the CAs of mesh %q: %w", o.Key.Name, err)
		}
	}
	return nil
}
