{{/* Labels of every object. No chart version among them: a new chart would then restart every engine. */}}
{{- define "engine-cluster.labels" -}}
app.kubernetes.io/name: engine-cluster
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/managed-by: {{ .root.Values.managedBy | default .root.Release.Service | quote }}
flowplane.dev/cluster: {{ .root.Values.cluster.id | quote }}
{{- end }}

{{/* Labels that choose pods; they can never change. */}}
{{- define "engine-cluster.selector" -}}
app.kubernetes.io/name: engine-cluster
app.kubernetes.io/component: {{ .component }}
flowplane.dev/cluster: {{ .root.Values.cluster.id | quote }}
{{- end }}

{{/* A quantity as the API server writes it back (1Gi, not 1024Mi), or whoever compares finds a difference. */}}
{{- define "engine-cluster.mebibytes" -}}
{{- $size := int64 . -}}
{{- if eq $size 0 -}}0
{{- else if eq (mod $size 1048576) 0 -}}{{ div $size 1048576 }}Ti
{{- else if eq (mod $size 1024) 0 -}}{{ div $size 1024 }}Gi
{{- else -}}{{ $size }}Mi
{{- end -}}
{{- end }}

{{/* The same for thousandths of a core: 1, not 1000m. */}}
{{- define "engine-cluster.cores" -}}
{{- $share := int64 . -}}
{{- if eq (mod $share 1000) 0 -}}{{ div $share 1000 }}{{- else -}}{{ $share }}m{{- end -}}
{{- end }}

{{/* Memory is what was promised and no more; the processor may be used while nobody else wants it. */}}
{{- define "engine-cluster.resources" -}}
requests:
  cpu: {{ include "engine-cluster.cores" .cpuMillis | quote }}
  memory: {{ include "engine-cluster.mebibytes" .memoryMiB | quote }}
limits:
  memory: {{ include "engine-cluster.mebibytes" .memoryMiB | quote }}
{{- end }}

{{- define "engine-cluster.image" -}}
{{- $tag := .Values.image.tag | default .Values.release.version -}}
{{ .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "engine-cluster.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}{{ int .Values.size.brokers }}{{- else -}}{{ int .Values.replicas }}{{- end -}}
{{- end }}

{{/* The most brokers of which anything is there: those that are wished, and those that are leaving. */}}
{{- define "engine-cluster.seats" -}}
{{ max (int .Values.size.brokers) (int (include "engine-cluster.replicas" .)) }}
{{- end }}

{{- define "engine-cluster.volumeMebibytes" -}}
{{ add (mul 2 (int64 .Values.size.diskMiB)) 512 }}
{{- end }}

{{- define "engine-cluster.tlsSecret" -}}
{{ .Values.tls.existingSecret | default "engine-tls" }}
{{- end }}

{{/* Who clients speak to. */}}
{{- define "engine-cluster.entrance" -}}
{{ ternary "gateway" "broker" (eq .Values.gateway.mode "standalone") }}
{{- end }}

{{/*
Whether clients are offered REST; "" when not. A gateway of its own asks nobody for a token there, whatever its profile
(seen on 8.5.8 and 8.6.0), so it has none.
*/}}
{{- define "engine-cluster.offersRest" -}}
{{- if and .Values.release.servesRest (eq .Values.gateway.mode "embedded") }}true{{ end -}}
{{- end }}

{{- define "engine-cluster.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1001
runAsGroup: 1001
fsGroup: 1001
# Else the kubelet walks over the whole volume at every start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "engine-cluster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod of the chart has, whatever it does. */}}
{{- define "engine-cluster.podCommon" -}}
serviceAccountName: engine
automountServiceAccountToken: false
# A namespace's services would be in the engine's environment, where Spring looks for settings.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "engine-cluster.podSecurity" . | nindent 2 }}
{{- with .Values.scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.scheduling.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.scheduling.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "engine-cluster.antiAffinity" -}}
{{- $term := dict "labelSelector" (dict "matchLabels" (include "engine-cluster.selector" . | fromYaml)) "topologyKey" "kubernetes.io/hostname" -}}
{{- $mode := .root.Values.scheduling.antiAffinity -}}
{{- if eq $mode "required" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - {{- toYaml $term | nindent 8 }}
{{- else if eq $mode "preferred" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          {{- toYaml $term | nindent 10 }}
{{- end }}
{{- end }}

{{/* The engine's processes that speak to each other. */}}
{{- define "engine-cluster.members" -}}
matchLabels:
  app.kubernetes.io/name: engine-cluster
  flowplane.dev/cluster: {{ .Values.cluster.id | quote }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [broker{{ if eq .Values.gateway.mode "standalone" }}, gateway{{ end }}]
{{- end }}
