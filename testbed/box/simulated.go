package main

import (
	"github.com/spf13/pflag"
	kwokconfig "sigs.k8s.io/kwok/pkg/config"
	kwok "sigs.k8s.io/kwok/pkg/kwok/cmd"
	kwoklog "sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/signals"
)

// runKwok plays the kubelets of simulated nodes.
func runKwok(arguments []string) error {
	// Kubernetes' libraries have put their own --version there, which is no switch as kwok's is: cobra would mix them up.
	pflag.CommandLine = pflag.NewFlagSet("kwok", pflag.ExitOnError)
	// The configuration is read before cobra sees the arguments, so this first reading ignores all other flags.
	first := pflag.NewFlagSet("configuration", pflag.ContinueOnError)
	first.ParseErrorsAllowlist.UnknownFlags = true
	first.Usage = func() {}
	ctx, _ := kwoklog.InitFlags(signals.SetupSignalContext(), first)
	ctx, err := kwokconfig.InitFlags(ctx, first)
	if err != nil {
		return err
	}
	root := kwok.NewCommand(ctx)
	root.PersistentFlags().AddFlagSet(first)
	root.SetArgs(arguments)
	return root.ExecuteContext(ctx)
}
