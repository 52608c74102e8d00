"""SageMaker: the training job, the endpoint and its CloudFormation stack."""
