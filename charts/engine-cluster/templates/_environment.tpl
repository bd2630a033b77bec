{{/*
The environment of a Java process of the engine. The same settings as on a laptop, for the same reasons:
provisioning/backends/local/configuration.py. What differs: names in place of loopback, fixed ports, and a log that
goes to the container's output.
*/}}

{{/*
Java's flags. One collector thread and the quick compiler: half the CPU time to readiness, and 40 MB less. No
performance file: the root is read-only. In JAVA_TOOL_OPTIONS, which every Java reads, whichever script starts it.
*/}}
{{- define "engine-cluster.javaOptions" -}}
-Xmx{{ int . }}m -Xss512k -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError -XX:+ErrorFileToStdout
{{- end }}

{{- define "engine-cluster.environment.java" -}}
- name: JAVA_TOOL_OPTIONS
  value: {{ include "engine-cluster.javaOptions" .heapMiB | quote }}
- name: LANG
  value: C.UTF-8
- name: HOME
  value: /tmp
# Fewer memory pools of the C library, which never give back what they took.
- name: MALLOC_ARENA_MAX
  value: "2"
# Both: log4j reads the first, and Spring would then load what it finds in the image's config folder.
- name: LOG4J_CONFIGURATION_FILE
  value: file:///engine-files/log4j2.xml
- name: LOGGING_CONFIG
  value: file:///engine-files/log4j2.xml
- name: POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
{{- end }}

{{/* Clients' side, management and tokens; the same for a broker and a gateway of its own. */}}
{{- define "engine-cluster.environment.doors" -}}
- name: SERVER_ADDRESS
  value: {{ .restAddress }}
- name: SERVER_PORT
  value: "8080"
# The engine has stopped serving by then, and an open connection would hold its end up for 30 s.
- name: SERVER_SHUTDOWN
  value: immediate
- name: SERVER_SSL_ENABLED
  value: "true"
- name: SERVER_SSL_CERTIFICATE
  value: /tls/tls.crt
- name: SERVER_SSL_CERTIFICATE_PRIVATE_KEY
  value: /tls/tls.key
# The engine asks for no token here: no network policy opens this port. Without TLS, as the kubelet probes it.
- name: MANAGEMENT_SERVER_ADDRESS
  value: 0.0.0.0
- name: MANAGEMENT_SERVER_PORT
  value: "9600"
- name: MANAGEMENT_SERVER_SSL_ENABLED
  value: "false"
# Without the profile identity-auth both releases answer REST to anybody, whatever gRPC asks for.
- name: SPRING_PROFILES_ACTIVE
  value: {{ .profile }},identity-auth
# The one type that asks the issuer for nothing but its keys, and they are a file.
- name: CAMUNDA_IDENTITY_TYPE
  value: KEYCLOAK
- name: CAMUNDA_IDENTITY_ISSUER
  value: file:///keys
- name: CAMUNDA_IDENTITY_ISSUERBACKENDURL
  value: file:///keys
- name: CAMUNDA_IDENTITY_AUDIENCE
  value: {{ .root.Values.cluster.audience | quote }}
{{- if or .root.Values.license.existingSecret .root.Values.license.key }}
- name: CAMUNDA_LICENSE_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.license.existingSecret | default "engine-license" }}
      key: key
{{- end }}
{{- end }}

{{/* Every broker under the name it is called by. */}}
{{- define "engine-cluster.contactPoints" -}}
{{- $points := list -}}
{{- $namespace := .Release.Namespace -}}
{{- range $node := until (int .Values.size.brokers) -}}
{{- $points = append $points (printf "broker-%d.brokers.%s.svc:26502" $node $namespace) -}}
{{- end -}}
{{- join "," $points -}}
{{- end }}

{{/* What a broker is, for the engine itself and for the program that makes its data from a backup. */}}
{{- define "engine-cluster.environment.broker" -}}
- name: ZEEBE_BROKER_NETWORK_HOST
  value: 0.0.0.0
- name: ZEEBE_BROKER_NETWORK_ADVERTISEDHOST
  value: $(POD_NAME).brokers.{{ .root.Release.Namespace }}.svc
- name: ZEEBE_BROKER_NETWORK_COMMANDAPI_PORT
  value: "26501"
- name: ZEEBE_BROKER_NETWORK_INTERNALAPI_PORT
  value: "26502"
- name: ZEEBE_BROKER_GATEWAY_ENABLE
  value: {{ eq .root.Values.gateway.mode "embedded" | quote }}
- name: ZEEBE_BROKER_GATEWAY_NETWORK_HOST
  value: 0.0.0.0
- name: ZEEBE_BROKER_GATEWAY_NETWORK_PORT
  value: "26500"
- name: ZEEBE_BROKER_GATEWAY_SECURITY_ENABLED
  value: "true"
- name: ZEEBE_BROKER_GATEWAY_SECURITY_CERTIFICATECHAINPATH
  value: /tls/tls.crt
- name: ZEEBE_BROKER_GATEWAY_SECURITY_PRIVATEKEYPATH
  value: /tls/tls.key
- name: ZEEBE_BROKER_GATEWAY_SECURITY_AUTHENTICATION_MODE
  value: identity
- name: ZEEBE_BROKER_CLUSTER_CLUSTERNAME
  value: {{ .root.Values.cluster.id | quote }}
- name: ZEEBE_BROKER_CLUSTER_CLUSTERSIZE
  value: {{ int .root.Values.size.brokers | quote }}
- name: ZEEBE_BROKER_CLUSTER_PARTITIONSCOUNT
  value: {{ int .root.Values.size.partitions | quote }}
- name: ZEEBE_BROKER_CLUSTER_REPLICATIONFACTOR
  value: {{ int .root.Values.size.replicationFactor | quote }}
{{- if or (gt (int .root.Values.size.brokers) 1) (eq .root.Values.gateway.mode "standalone") }}
- name: ZEEBE_BROKER_CLUSTER_INITIALCONTACTPOINTS
  value: {{ include "engine-cluster.contactPoints" .root | quote }}
{{- end }}
- name: ZEEBE_BROKER_DATA_DIRECTORY
  value: {{ .data }}
# Small segments make small volumes and small backups.
- name: ZEEBE_BROKER_DATA_LOGSEGMENTSIZE
  value: 16MB
- name: ZEEBE_BROKER_DATA_SNAPSHOTPERIOD
  value: 15m
# Below the first the engine stops processing, below the second it stops replicating.
- name: ZEEBE_BROKER_DATA_DISK_FREESPACE_PROCESSING
  value: 512MB
- name: ZEEBE_BROKER_DATA_DISK_FREESPACE_REPLICATION
  value: 256MB
- name: ZEEBE_BROKER_EXPERIMENTAL_ROCKSDB_MEMORYLIMIT
  value: 32MB
- name: ZEEBE_BROKER_THREADS_CPUTHREADCOUNT
  value: "1"
- name: ZEEBE_BROKER_THREADS_IOTHREADCOUNT
  value: "1"
{{- end }}

{{- define "engine-cluster.environment.store" -}}
{{- $store := .root.Values.backupStore -}}
{{- if $store.enabled -}}
- name: ZEEBE_BROKER_DATA_BACKUP_STORE
  value: S3
- name: ZEEBE_BROKER_DATA_BACKUP_S3_ENDPOINT
  value: {{ $store.endpoint | quote }}
- name: ZEEBE_BROKER_DATA_BACKUP_S3_REGION
  value: {{ $store.region | quote }}
- name: ZEEBE_BROKER_DATA_BACKUP_S3_BUCKETNAME
  value: {{ $store.bucket | quote }}
- name: ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH
  value: {{ .basePath | default $store.basePath | default .root.Values.cluster.id | quote }}
- name: ZEEBE_BROKER_DATA_BACKUP_S3_FORCEPATHSTYLEACCESS
  value: {{ $store.pathStyle | quote }}
- name: ZEEBE_BROKER_DATA_BACKUP_S3_ACCESSKEY
  valueFrom:
    secretKeyRef:
      name: {{ $store.existingSecret | default "backup-store" }}
      key: access-key
- name: ZEEBE_BROKER_DATA_BACKUP_S3_SECRETKEY
  valueFrom:
    secretKeyRef:
      name: {{ $store.existingSecret | default "backup-store" }}
      key: secret-key
{{- end -}}
{{- end }}

{{/* Which broker this is: Kubernetes labels every pod of a StatefulSet with its number. */}}
{{- define "engine-cluster.environment.node" -}}
- name: ZEEBE_BROKER_CLUSTER_NODEID
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
{{- end }}

{{/* What the scripts on the volume are told. */}}
{{- define "engine-cluster.environment.volume" -}}
- name: VOLUME
  value: /volume
- name: TERMINATION_LOG
  value: /dev/termination-log
- name: RELEASE
  value: {{ .root.Values.release.version | quote }}
- name: DATA_EPOCH
  value: {{ .epoch | quote }}
{{- end }}
