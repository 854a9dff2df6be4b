package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// checkTime is how long a control plane that is added may take to answer.
const checkTime = 5 * time.Second

func (t *tool) config() *cobra.Command {
	controlPlanes := group("control-planes", "Say which control planes there are, and with which to speak",
		t.addControlPlane(), t.listControlPlanes(), t.removeControlPlane(), t.switchControlPlane())
	view := &cobra.Command{
		Use: "view", Short: "Print the configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := t.readSettings()
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(s)
			if err == nil {
				_, err = c.OutOrStdout().Write(text)
			}
			return err
		},
	}
	return group("config", "Configure which control planes meridianctl speaks with", controlPlanes, view)
}

// readSettings reads the file that a command may change afterwards, which need not be there.
func (t *tool) readSettings() (settings, error) {
	s, err := readSettings(t.configFile)
	if t.configFile != "" && errors.Is(err, fs.ErrNotExist) {
		return initial(), nil
	}
	return s, err
}

func (t *tool) writeSettings(s settings) error {
	file := t.configFile
	if file == "" {
		var err error
		if file, err = ownSettings(); err != nil {
			return err
		}
	}
	return s.write(file)
}

func (t *tool) addControlPlane() *cobra.Command {
	var name, olderCert, olderKey string
	var overwrite bool
	c := &cobra.Command{
		Use: "add --name NAME --address URL", Short: "Add a control plane, and speak with it from now on", Args: cobra.NoArgs,
		Long: "Add a control plane, and speak with it from now on. It has to answer. Of certificates, keys and tokens only the\n" +
			"names of their files are kept.",
		RunE: func(c *cobra.Command, _ []string) error {
			at := t.connection
			if olderCert != "" {
				at.clientCertFile = olderCert
			}
			if olderKey != "" {
				at.clientKeyFile = olderKey
			}
			switch {
			case name == "":
				return usagef("--name: is needed")
			case at.address == "":
				return usagef("--address: is needed")
			case (at.clientCertFile == "") != (at.clientKeyFile == ""):
				return usagef("--client-cert-file and --client-key-file: both are needed, or none")
			}
			if !c.Flags().Changed("user-token-file") {
				at.userTokenFile = "" // The variable stays one.
			}
			s, err := t.readSettings()
			if err != nil {
				return err
			}
			if s.controlPlane(name) >= 0 && !overwrite {
				return fmt.Errorf("there is a control plane %q; --overwrite replaces it", name)
			}
			entry, err := at.entry()
			if err != nil {
				return err
			}
			if err := t.check(c, at); err != nil {
				return err
			}
			s.add(name, entry)
			if err := t.writeSettings(s); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "added control plane %q\nswitched to control plane %q\n", name, name)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "what to call the control plane")
	f.BoolVar(&overwrite, "overwrite", false, "replace one of the same name")
	for _, older := range []string{"admin-client", "dataplane-token-client"} {
		f.StringVar(&olderCert, older+"-cert", "", "an older name of --client-cert-file")
		f.StringVar(&olderKey, older+"-key", "", "an older name of --client-key-file")
	}
	return c
}

// entry is the connection as the file has it. A relative path would mean another file elsewhere.
func (c connection) entry() (apiServer, error) {
	e := apiServer{
		URL: c.address, CACertFile: c.caCertFile, ClientCertFile: c.clientCertFile, ClientKeyFile: c.clientKeyFile,
		SkipVerify: c.skipVerify, UserTokenFile: c.userTokenFile,
	}
	for _, file := range []*string{&e.CACertFile, &e.ClientCertFile, &e.ClientKeyFile, &e.UserTokenFile} {
		if *file == "" {
			continue
		}
		var err error
		if *file, err = filepath.Abs(*file); err != nil {
			return apiServer{}, err
		}
	}
	return e, nil
}

// check asks who answers.
func (t *tool) check(c *cobra.Command, at connection) error {
	cp, err := t.open(at)
	if err != nil {
		return err
	}
	defer cp.close()
	cp.http.Timeout = checkTime
	h, err := cp.greet(c.Context())
	if err != nil {
		return fmt.Errorf("--address: no control plane answers: %w", err)
	}
	if h.Tagline != tagline {
		return fmt.Errorf("--address: who answers at %s is no control plane", at.address)
	}
	return nil
}

func (t *tool) listControlPlanes() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the control planes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := t.readSettings()
			if err != nil {
				return err
			}
			active := ""
			if i := s.context(s.CurrentContext); i >= 0 {
				active = s.Contexts[i].ControlPlane
			}
			return rows(c.OutOrStdout(), []string{"ACTIVE", "NAME", "ADDRESS"}, func(row func(...string)) {
				for _, cp := range s.ControlPlanes {
					mark := ""
					if cp.Name == active {
						mark = "*"
					}
					row(mark, cp.Name, cp.Coordinates.APIServer.URL)
				}
			})
		},
	}
}

func (t *tool) removeControlPlane() *cobra.Command {
	return t.namedControlPlane("remove", "Forget a control plane", func(s *settings, i int) string {
		name := s.ControlPlanes[i].Name
		s.remove(i)
		return fmt.Sprintf("removed control plane %q", name)
	})
}

func (t *tool) switchControlPlane() *cobra.Command {
	return t.namedControlPlane("switch", "Speak with another control plane from now on", func(s *settings, i int) string {
		cp := s.ControlPlanes[i]
		s.add(cp.Name, cp.Coordinates.APIServer)
		return fmt.Sprintf("switched to control plane %q", cp.Name)
	})
}

func (t *tool) namedControlPlane(use, short string, change func(s *settings, i int) string) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: use + " --name NAME", Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" {
				return usagef("--name: is needed")
			}
			s, err := t.readSettings()
			if err != nil {
				return err
			}
			i := s.controlPlane(name)
			if i < 0 {
				return fmt.Errorf("there is no control plane %q", name)
			}
			done := change(&s, i)
			if err := t.writeSettings(s); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), done)
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the control plane")
	_ = c.RegisterFlagCompletionFunc("name", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		s, err := t.readSettings()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, cp := range s.ControlPlanes {
			names = append(names, cp.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}
