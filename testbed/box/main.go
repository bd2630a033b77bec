// Box is one static program that carries a whole Kubernetes: etcd, the control plane, the node's agents and what the
// tests need beside them. One program because everything is compiled and linked once, against one set of versions;
// each of these programs alone would link the same libraries again.
//
//	box COMPONENT [flags]      or a link with the component's name
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// A component takes its arguments, without its own name, and returns how it ended.
type component func(arguments []string) error

var components = map[string]component{
	"etcd":                    func(arguments []string) error { etcdmain.Main(os.Args); return nil },
	"kube-apiserver":          command(apiserver.NewAPIServerCommand),
	"kube-controller-manager": command(controllers.NewControllerManagerCommand),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubelet":                 command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kube-proxy":              command(proxy.NewProxyCommand),
	"kubectl":                 command(kubectl.NewDefaultKubectlCommand),
	"containerd":              runContainerd,
	"ctr":                     runCtr,
	"coredns":                 runCoreDNS,
	"kwok":                    runKwok,
	"network-policies":        runNetworkPolicies,
	"folder-volumes":          runFolderVolumes,
}

// command runs one of Kubernetes' own programs, which end the process themselves.
func command(make func() *cobra.Command) component {
	return func(arguments []string) error {
		root := make()
		root.SetArgs(arguments)
		os.Exit(cli.Run(root))
		return nil
	}
}

func main() {
	name, arguments := filepath.Base(os.Args[0]), os.Args[1:]
	run, known := components[name]
	if !known && len(arguments) > 0 {
		name, arguments = arguments[0], arguments[1:]
		run, known = components[name]
	}
	if !known {
		names := slices.Sorted(maps.Keys(components))
		fmt.Fprintln(os.Stderr, "usage: box COMPONENT [flags], with one of", strings.Join(names, ", "))
		os.Exit(2)
	}
	// Several of them look at os.Args itself: it must be what they would have been given alone.
	os.Args = append([]string{name}, arguments...)
	if err := run(arguments); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
