package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"
)

// settings is the configuration file, in the published client's form: control planes, and contexts that name one
// each and the mesh to begin with.
type settings struct {
	ControlPlanes  []controlPlane `yaml:"controlPlanes"`
	Contexts       []target       `yaml:"contexts"`
	CurrentContext string         `yaml:"currentContext"`
}

type controlPlane struct {
	Name        string      `yaml:"name"`
	Coordinates coordinates `yaml:"coordinates"`
}

type coordinates struct {
	APIServer apiServer `yaml:"apiServer"`
}

// apiServer is a connection. It names files and holds no secret. SkipVerify and UserTokenFile are ours.
type apiServer struct {
	URL            string `yaml:"url"`
	CACertFile     string `yaml:"caCertFile,omitempty"`
	ClientCertFile string `yaml:"clientCertFile,omitempty"`
	ClientKeyFile  string `yaml:"clientKeyFile,omitempty"`
	SkipVerify     bool   `yaml:"skipVerify,omitempty"`
	UserTokenFile  string `yaml:"userTokenFile,omitempty"`
}

// target is a context of the file.
type target struct {
	Name         string   `yaml:"name"`
	ControlPlane string   `yaml:"controlPlane"`
	Defaults     defaults `yaml:"defaults,omitempty"`
}

type defaults struct {
	Mesh string `yaml:"mesh,omitempty"`
}

// maxSettings bounds the configuration file, in bytes.
const maxSettings = 1 << 20

// initial is what holds where there is no configuration file.
func initial() settings {
	return settings{
		ControlPlanes:  []controlPlane{{"local", coordinates{apiServer{URL: "http://localhost:5681"}}}},
		Contexts:       []target{{Name: "local", ControlPlane: "local"}},
		CurrentContext: "local",
	}
}

// ownSettings is the default path of the configuration file, publishedSettings that of the published client.
func ownSettings() (string, error)       { return inHome(".meridian") }
func publishedSettings() (string, error) { return inHome(".kumactl") }

func inHome(dir string) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("--config-file: is needed: %w", err)
	}
	return filepath.Join(home, dir, "config"), nil
}

// readSettings reads the configuration file. Without a name it is our own, else the published client's, of which
// what is not known is passed over.
func readSettings(file string) (settings, error) {
	if file != "" {
		return readSettingsOf(file, yaml.Strict())
	}
	own, err := ownSettings()
	if err != nil {
		return initial(), nil //nolint:nilerr // without a home there is no file
	}
	s, err := readSettingsOf(own, yaml.Strict())
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	published, err := publishedSettings()
	if err != nil {
		return settings{}, err
	}
	s, err = readSettingsOf(published)
	if errors.Is(err, fs.ErrNotExist) {
		return initial(), nil
	}
	return s, err
}

func readSettingsOf(file string, options ...yaml.DecodeOption) (settings, error) {
	data, err := readBounded(file, maxSettings)
	if err != nil {
		return settings{}, err
	}
	var s settings
	if err := yaml.UnmarshalWithOptions(data, &s, options...); err != nil {
		return settings{}, fmt.Errorf("%s: %w", file, firstLine(err))
	}
	return s, nil
}

// write replaces the file in one step; it is its owner's alone.
func (s settings) write(file string) (err error) {
	// A link stays one.
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	data, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// controlPlane finds a control plane by its name, as an index; -1: there is none.
func (s settings) controlPlane(name string) int {
	return slices.IndexFunc(s.ControlPlanes, func(c controlPlane) bool { return c.Name == name })
}

func (s settings) context(name string) int {
	return slices.IndexFunc(s.Contexts, func(c target) bool { return c.Name == name })
}

// current is the connection and the mesh of the current context.
func (s settings) current() (apiServer, string, error) {
	if s.CurrentContext == "" {
		return apiServer{}, "", errors.New("no control plane is chosen: use config control-planes switch, or --address")
	}
	i := s.context(s.CurrentContext)
	if i < 0 {
		return apiServer{}, "", fmt.Errorf("currentContext: there is no context %q", s.CurrentContext)
	}
	c := s.Contexts[i]
	if i = s.controlPlane(c.ControlPlane); i < 0 {
		return apiServer{}, "", fmt.Errorf("contexts: %s: there is no control plane %q", c.Name, c.ControlPlane)
	}
	return s.ControlPlanes[i].Coordinates.APIServer, c.Defaults.Mesh, nil
}

// add puts a control plane and a context of its name into the file, and makes that the current one. A context that
// is there keeps its mesh.
func (s *settings) add(name string, at apiServer) {
	cp := controlPlane{name, coordinates{at}}
	if i := s.controlPlane(name); i >= 0 {
		s.ControlPlanes[i] = cp
	} else {
		s.ControlPlanes = append(s.ControlPlanes, cp)
	}
	if i := s.context(name); i >= 0 {
		s.Contexts[i].ControlPlane = name
	} else {
		s.Contexts = append(s.Contexts, target{Name: name, ControlPlane: name})
	}
	s.CurrentContext = name
}

// remove takes a control plane out, with the contexts that lead to it.
func (s *settings) remove(i int) {
	name := s.ControlPlanes[i].Name
	s.ControlPlanes = slices.Delete(s.ControlPlanes, i, i+1)
	s.Contexts = slices.DeleteFunc(s.Contexts, func(c target) bool { return c.ControlPlane == name })
	if s.context(s.CurrentContext) < 0 {
		s.CurrentContext = ""
	}
}
